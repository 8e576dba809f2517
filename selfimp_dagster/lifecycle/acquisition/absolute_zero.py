"""Programs that the policy sets itself (survey 2.4.3): Absolute Zero."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.proposals import (
    Known,
    Origin,
    Proposal,
    decide,
    text_fault,
)
from selfimp_dagster.lifecycle.acquisition.proposers import (
    Prompt,
    Proposed,
    SelfPlay,
    ask_proposers,
    ask_solvers,
    samples_of,
)
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.records import canonical_json, derive_seed
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.programs import (
    ABDUCTION,
    DEDUCTION,
    FUNCTION,
    INDUCTION,
    NotRunnable,
    arguments_in,
    outputs_of,
    written,
)

_SOURCE = "absolute_zero"
_FENCE = re.compile(r"```(\w*)[ \t]*\n(.*?)```", re.DOTALL)
_FEWEST_INPUTS, _MOST_INPUTS = 4, 20


@dataclass(frozen=True)
class Triple:
    """A program, what it was given, and what it returned; `id` and `depth` of the task that it stands in."""

    program: str
    arguments: list[Any]
    output: Any
    origin: Origin | None = None


_FIRST = Triple(f"def {FUNCTION}(x):\n    return x", ["Hello World"], "Hello World")
"""What the paper starts with, where nothing is known yet."""


class AbsoluteZero(SelfPlay):
    """Parameters of `absolute_zero`."""

    kinds: tuple[Literal["deduction", "abduction", "induction"], ...] = Field(
        default=("deduction", "abduction", "induction"),
        min_length=1,
        description="The kinds of tasks.",
    )
    references: int = Field(
        default=2, ge=1, description="Programs of earlier tasks that a proposer is shown, to differ from."
    )
    inputs: int = Field(
        default=6,
        ge=_FEWEST_INPUTS,
        le=_MOST_INPUTS,
        description="Inputs that a proposer gives for an induction; half of their results are shown.",
    )


@method("acquisition", _SOURCE, parameters=AbsoluteZero, section="2.4.3", paper="arXiv:2505.03335")
def absolute_zero(context: AcquisitionContext, parameters: AbsoluteZero) -> Corpus:
    """The policy sets tasks about programs, which running them verifies, and solves them (Absolute Zero).

    In: programs of tasks of earlier rounds, at first the identity; signal: the sandbox, which runs every
    program twice and compares; out: the prompts of the proposers with a group of proposals to each
    (generation I), and tasks with several responses (generation SE): what a program returns (deduction), what
    it was given (abduction), and the program behind inputs and outputs (induction, half of which are hidden).
    As many proposals are drawn as the round has tasks. The reward `absolute_zero` judges both roles. The
    paper also forbids some modules by name; here the sandbox forbids what they could do.
    """
    each = context.size / len(parameters.kinds)
    references = _references(context)
    chosen = random.Random(derive_seed(context.seed, _SOURCE))
    plain = [kind for kind in parameters.kinds if kind != INDUCTION]
    prompts = [
        _program_to_set(kind, chosen.sample(references, min(parameters.references, len(references))))
        for kind in plain
        for _ in range(parameters.prompts(each))
    ]
    asking, proposed = ask_proposers(context, parameters, _SOURCE, prompts)
    proposals = [_read_program(one) for one in proposed]
    tables, drawn = [asking], [samples_of(proposed)]
    if INDUCTION in parameters.kinds:
        fresh = [*references, *_triples(proposals)]
        prompts = [
            _inputs_to_set(chosen.choice(fresh), parameters.inputs) for _ in range(parameters.prompts(each))
        ]
        asking, proposed = ask_proposers(context, parameters, _SOURCE, prompts)
        proposals += [_read_inputs(one, parameters.inputs) for one in proposed]
        tables.append(asking)
        drawn.append(samples_of(proposed))
    decided = decide(proposals, context.rules, Known(context.written["prompt"]))
    solved = ask_solvers(context, parameters, _SOURCE, decided.tasks)
    return Corpus(
        tasks=pl.concat([*tables, decided.tasks]).unique("task_id", keep="first", maintain_order=True),
        samples=pl.concat([*drawn, solved]),
        proposals=decided.proposals,
    )


def _references(context: AcquisitionContext) -> list[Triple]:
    """The programs of earlier rounds that a proposer may be shown, so that its tasks are not too deep."""
    most = context.rules.most_depth
    found = [
        Triple(
            given["program"],
            given["arguments"],
            given["output"],
            Origin(row["task_id"], row["generation_depth"]),
        )
        for row in context.written.sort("task_id").iter_rows(named=True)
        if row["verifier"] in (DEDUCTION, ABDUCTION) and (given := json.loads(row["entry"]))
        if most is None or row["generation_depth"] < most
    ]
    return found or [_FIRST]


def _triples(proposals: Sequence[Proposal]) -> Iterator[Triple]:
    """The programs of proposals that ran."""
    for proposal in proposals:
        if proposal.fault is None and proposal.entry is not None:
            given = proposal.entry
            origin = Origin(proposal.draft_id or "", proposal.depth)
            yield Triple(given["program"], given["arguments"], given["output"], origin)


def _program_to_set(kind: str, references: Sequence[Triple]) -> Prompt:
    shown = "\n\n".join(
        f"```python\n{one.program}\n```\n```input\n{written(one.arguments)}\n```\nIt returns {one.output!r}."
        for one in references
    )
    hard = (
        "what it returns is hard to work out"
        if kind == DEDUCTION
        else "the input is hard to find from what it returns"
    )
    text = (
        f"Python functions `{FUNCTION}`, each with an input:\n\n{shown}\n\nWrite another `{FUNCTION}`, "
        f"different from these, with an input, such that {hard}. It uses neither chance nor files. Answer in "
        f"this form:\n```python\ndef {FUNCTION}(...):\n    ...\n```\n```input\n...\n```"
    )
    return Prompt(text, tuple(one.origin for one in references if one.origin), kind)


def _inputs_to_set(reference: Triple, inputs: int) -> Prompt:
    text = (
        f"A Python function:\n\n```python\n{reference.program}\n```\n\nGive {inputs} different inputs that "
        f"show together what it does, each in a block of its own, and a hint in words that does not give the "
        f"program away. Answer in this form:\n```input\n...\n```\n```input\n...\n```\n```message\n...\n```"
    )
    return Prompt(text, (reference.origin,) if reference.origin else (), reference.program)


def _read_program(one: Proposed) -> Proposal:
    """A proposed program with its input, as a deduction or an abduction; it is run."""
    kind = one.prompt.given
    proposal = _proposal(one, kind)
    blocks = _blocks(one.text)
    programs, inputs = blocks.get("python", []), blocks.get("input", [])
    if not programs or not inputs:
        return _formless(proposal, one, "no program with an input")
    program = programs[-1].strip()
    if not re.search(rf"^def {FUNCTION}\(", program, re.MULTILINE):
        return proposal.rejected(Reason.FORM, f"no function {FUNCTION}")
    arguments = arguments_in(inputs[-1])
    if arguments is None:
        return proposal.rejected(Reason.FORM, "the input is not made of literals")
    try:
        (output,) = outputs_of(program, [arguments])
    except NotRunnable as error:
        return _not_runnable(proposal, error)
    shown = f"```python\n{program}\n```"
    if kind == DEDUCTION:
        prompt = (
            f"{shown}\n\nWhat does {FUNCTION}({written(arguments)}) return? Write the value as a Python "
            f"literal on the last line."
        )
    else:
        prompt = (
            f"{shown}\n\nFor which input does {FUNCTION} return {output!r}? Write one such call, "
            f"{FUNCTION}(...), on the last line."
        )
    return replace(
        proposal,
        prompt=prompt,
        answer=repr(output) if kind == DEDUCTION else None,
        entry={"program": program, "arguments": arguments, "output": output},
        chat=_chat(prompt),
    )


def _read_inputs(one: Proposed, most: int) -> Proposal:
    """Proposed inputs with a hint, as an induction; the program is run on them."""
    proposal = _proposal(one, INDUCTION)
    blocks = _blocks(one.text)
    messages = blocks.get("message", [])
    found = [arguments_in(text) for text in blocks.get("input", [])]
    inputs = list({canonical_json(given): given for given in found if given is not None}.values())[:most]
    if not messages or len(inputs) < _FEWEST_INPUTS:
        return _formless(proposal, one, f"{len(inputs)} inputs and {len(messages)} hints")
    hint = messages[-1].strip()
    if f"def {FUNCTION}" in hint:
        return proposal.rejected(Reason.FORM, "the hint gives the program away")
    try:
        outputs = outputs_of(one.prompt.given, inputs)
    except NotRunnable as error:
        return _not_runnable(proposal, error)
    if len({canonical_json(output) for output in outputs}) < 2:
        return proposal.rejected(Reason.UNCHANGED, "all inputs give the same")
    tests = list(zip(inputs, outputs, strict=True))
    half = len(tests) // 2
    examples = "\n".join(f"{FUNCTION}({written(given)}) == {output!r}" for given, output in tests[:half])
    prompt = (
        f"Write a Python function `{FUNCTION}`. {hint}\n\nExamples:\n{examples}\n\nAnswer with the whole "
        f"function in one ```python block."
    )
    return replace(
        proposal,
        prompt=prompt,
        entry={"program": one.prompt.given, "tests": [list(test) for test in tests[half:]]},
        chat=_chat(prompt),
    )


def _proposal(one: Proposed, kind: str) -> Proposal:
    return Proposal(
        method=_SOURCE,
        skill=kind,
        prompt=one.text,
        origins=one.origins,
        verifier=kind,
        draft_id=one.sample["sample_id"],
    )


def _formless(proposal: Proposal, one: Proposed, what: str) -> Proposal:
    """A proposal that cannot be read, with the reason that says most."""
    return proposal.rejected(*(text_fault(one.text, ended=one.ended) or (Reason.FORM, what)))


def _not_runnable(proposal: Proposal, error: NotRunnable) -> Proposal:
    return proposal.rejected(Reason.EXECUTION if error.repeats else Reason.CHANCE, str(error))


def _blocks(text: str) -> dict[str, list[str]]:
    """The fenced blocks of a text by what stands behind their opening."""
    found: dict[str, list[str]] = {}
    for name, inside in _FENCE.findall(text):
        found.setdefault(name.lower(), []).append(inside)
    return found


def _chat(prompt: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},)
