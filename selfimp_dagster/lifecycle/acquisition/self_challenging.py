"""Tasks that come with the program that checks them (survey 2.4.3): Self-Challenging."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, answered
from selfimp_dagster.lifecycle.acquisition.drafting import Drafting, draft, drafts_frame
from selfimp_dagster.lifecycle.acquisition.proposals import Known, Origin, Proposal, decide
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.registry import method
from selfimp_dagster.sandbox.functions import program_in
from selfimp_dagster.tasks.programs import CHECK, CODE_AS_TASK, NotRunnable, verdicts_of
from selfimp_dagster.tools.python import executed

SELF_CHALLENGING = "self_challenging"

_EXPLORE = (
    "You have a Python interpreter with the standard library. Try something out that a task for somebody "
    "else could be made of: what a function does, what a computation comes to. Write one short program that "
    "prints what you want to see, in one ```python block."
)
_CHALLENGE = (
    "The interpreter says:\n{said}\n\nNow set a task for somebody who has not seen this. Answer in this "
    "form:\n```instruction\nwhat to do; the answer is one line of text\n```\n"
    f"```python\ndef {CHECK}(answer):\n    # True if this answer, a text, solves the task, else False\n```\n"
    "```solution\nan answer that solves it\n```\n{failures}"
)
_FAILURE = "```failure\nan answer that looks right and is wrong\n```\n"
_BLOCK = re.compile(r"```(\w+)[ \t]*\n(.*?)```", re.DOTALL)


class SelfChallenging(Drafting):
    """Parameters of `self_challenging`."""

    writing: Sampling = Field(
        default=Sampling(max_new_tokens=384, temperature=0.8),
        description="How the challenger's programs and tasks are drawn.",
    )
    failures: int = Field(
        default=3, ge=1, description="Wrong answers that a task must come with, all of which it must refuse."
    )


@method(
    "acquisition",
    SELF_CHALLENGING,
    parameters=SelfChallenging,
    section="2.4.3",
    paper="arXiv:2506.01716",
)
def self_challenging(context: AcquisitionContext, parameters: SelfChallenging) -> Corpus:
    """The policy explores with a tool, and sets tasks with the function that verifies their answers.

    In: a Python interpreter, in which a challenger runs one program of its own; signal: the sandbox. A
    Code-as-Task (Zhou et al., section 3.2) is an instruction, a verification function, a solution and several
    failures; it is a task if the function accepts the solution, refuses every failure and says the same when
    it is run again. Out: the tasks, verified by their functions, and the executor's responses to each; those
    that pass are what the paper trains on. Its environments are multi-turn tools of a benchmark; here the
    tool is an interpreter, the challenger has two turns, and the executor answers in one.
    """
    opening: tuple[Message, ...] = ({"role": "user", "content": _EXPLORE},)
    tried = draft(context, f"{SELF_CHALLENGING}: exploring", [opening] * context.size, parameters.writing)
    failures = _FAILURE * parameters.failures
    asked = [_told(opening, reply, failures) for reply in tried]
    replies = draft(context, SELF_CHALLENGING, asked, parameters.writing)
    proposals = [
        _challenge(reply, before, parameters.failures) for reply, before in zip(replies, tried, strict=True)
    ]
    decided = decide(proposals, context.rules, Known(context.written["prompt"]))
    samples = answered(decided.tasks, context, parameters.samples_per_task, parameters.sampling)
    return Corpus(decided.tasks, samples, decided.proposals, drafts_frame(tried, replies))


def _told(opening: Sequence[Message], reply: Mapping[str, Any], failures: str) -> tuple[Message, ...]:
    """The challenger's second turn: what its program printed, and what it is to write."""
    program = program_in(reply["response"])
    said = executed(program) if program else "error: no program"
    return (
        *opening,
        {"role": "assistant", "content": reply["response"]},
        {"role": "user", "content": _CHALLENGE.format(said=said, failures=failures)},
    )


def _challenge(reply: Mapping[str, Any], before: Mapping[str, Any], failures: int) -> Proposal:
    """The Code-as-Task in a draft; it is tried."""
    proposal = Proposal(
        SELF_CHALLENGING,
        SELF_CHALLENGING,
        reply["response"],
        origins=(Origin(before["sample_id"]),),
        verifier=CODE_AS_TASK,
        draft_id=reply["sample_id"],
        ended=reply["finish_reason"] == "stop",
    )
    blocks: dict[str, list[str]] = {}
    for name, inside in _BLOCK.findall(reply["response"]):
        blocks.setdefault(name.lower(), []).append(inside.strip())
    instruction, program, solution = (
        blocks.get(name, [""])[0] for name in ("instruction", "python", "solution")
    )
    wrong = list(dict.fromkeys(blocks.get("failure", [])))
    if not (instruction and program and solution) or len(wrong) < failures:
        return proposal.formless(f"an instruction, {CHECK}, a solution and {failures} failures")
    if any("\n" in answer for answer in (solution, *wrong)):
        return proposal.rejected(Reason.FORM, "an answer of several lines")
    if solution in instruction:
        return proposal.rejected(Reason.FORM, "the instruction says the solution")
    try:
        right, *others = verdicts_of(program, [solution, *wrong])
    except NotRunnable as error:
        return proposal.rejected(Reason.EXECUTION if error.repeats else Reason.CHANCE, str(error))
    if not right or any(others):
        told = f"it accepts {sum(others)} of {len(others)} failures" if right else "it refuses the solution"
        return proposal.rejected(Reason.INCONSISTENT, told)
    return replace(proposal, prompt=instruction, entry={"program": program}, ended=True)
