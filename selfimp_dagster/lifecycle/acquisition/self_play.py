"""Questions that the policy sets itself (survey 2.4.3): R-Zero and SPICE."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.documents import (
    Documents,
    chosen_passages,
    passages_of,
    stands_in,
)
from selfimp_dagster.lifecycle.acquisition.proposals import (
    JUDGEMENT,
    Known,
    Origin,
    Proposal,
    Rules,
    decide,
    languages_of,
    task_origins,
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
from selfimp_dagster.lifecycle.rouge import words
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method

_FORM = re.compile(r"\bQuestion:\s*(.+?)\s+Answer:\s*(.+?)\s*(?:\n|$)", re.DOTALL | re.IGNORECASE)
_WRITE = "Write it on two lines, and nothing else:\nQuestion: ...\nAnswer: ..."
_EXAMPLE = (
    "An example, for the text `The Nile is 6650 kilometres long.`:\n"
    "Question: How many kilometres long is the Nile?\nAnswer: 6650"
)
SET_A_QUESTION = (
    "Set one new question for an expert. It is hard, needs several steps of thought, has one right answer, "
    f"and the answer is a number. {_WRITE}"
)
"""What a proposer is asked that is shown nothing."""

_LONGEST_ANSWER = 100
"""Characters."""

_POINTS_BACK = re.compile(
    r"\b(?:the|this|that) (?:\w+ )?(?:text|passage|document|article|paragraph|excerpt)\b", re.IGNORECASE
)


Reader = Callable[[Proposed, Rules], Proposal]
"""Reads what a proposer said."""


class RZero(SelfPlay):
    """Parameters of `r_zero`."""

    shown: int = Field(
        default=0,
        ge=0,
        description="Train tasks of one skill that a proposer is shown, with their answers. 0: none, as in "
        "the paper, where nothing is known of what the questions are for.",
    )


@method(
    "acquisition",
    "r_zero",
    parameters=RZero,
    section="2.4.3",
    paper="arXiv:2508.05004",
    needs=frozenset({JUDGEMENT}),
)
def r_zero(context: AcquisitionContext, parameters: RZero) -> Corpus:
    """The policy sets questions and answers each several times; nobody else knows the answers (R-Zero).

    In: nothing, or a few train tasks to look at; signal: none here, the reward `r_zero` judges both roles by
    how far the answers agree; out: the prompts of the proposers with a group of proposals to each (generation
    I), and the questions as unverified tasks with their answers (generation SE). As many proposals are drawn
    as the round has tasks. The paper has two models, a challenger and a solver that were one, train in turn;
    here one set of weights plays both roles and learns from both in one update.
    """
    prompts = _questions_to_set(context, parameters)
    return _asked_and_answered(context, parameters, "r_zero", prompts, _read_question)


class Spice(SelfPlay, Documents):
    """Parameters of `spice`."""


@method("acquisition", "spice", parameters=Spice, section="2.4.3", paper="arXiv:2510.24684")
def spice(context: AcquisitionContext, parameters: Spice) -> Corpus:
    """The policy sets questions about texts that it does not see when it answers them (SPICE).

    In: passages of documents; signal: whether the answer that the proposer gives stands in its passage, and
    here nothing more: the reward `spice` judges both roles by how often that answer is found; out: the
    prompts of the proposers with a group of proposals to each (generation I), and the questions as tasks
    whose answer is the passage's, with several responses (generation SE). As many proposals are drawn as the
    round has tasks. The paper also asks for multiple choice; here answers are short and free.

    Raises:
        SelfimpError: no document can be read.
    """
    chosen = chosen_passages(
        passages_of(context.folder, parameters),
        parameters.prompts(context.size),
        derive_seed(context.seed, "passages"),
    )
    prompts = [
        Prompt(
            f"A text:\n\n{row['text']}\n\nSet one hard question about a fact of the text. Whoever answers it "
            f"does not see the text, so the question must stand by itself. The answer is a number, a name or "
            f"a few words that stand in the text. {_WRITE}\n\n{_EXAMPLE}",
            (Origin(row["document_id"]),),
            row["text"],
        )
        for row in chosen.iter_rows(named=True)
    ]
    corpus = _asked_and_answered(context, parameters, "spice", prompts, _read_grounded)
    return replace(corpus, documents=chosen)


def _questions_to_set(context: AcquisitionContext, parameters: RZero) -> list[Prompt]:
    count = parameters.prompts(context.size)
    if not parameters.shown:
        return [Prompt(SET_A_QUESTION)] * count
    drawn = context.draw(count * parameters.shown, context.skill_weights)
    prompts = []
    for (skill,), tasks in drawn.partition_by("skill", as_dict=True, maintain_order=True).items():
        for start in range(0, tasks.height, parameters.shown):
            shown = tasks.slice(start, parameters.shown).to_dicts()
            examples = "\n".join(f"Question: {task['prompt']}\nAnswer: {task['answer']}" for task in shown)
            text = (
                f"Some questions:\n{examples}\n\nSet one new question of this kind, a little harder. {_WRITE}"
            )
            prompts.append(Prompt(text, task_origins(shown), skill))
    return prompts


def _asked_and_answered(
    context: AcquisitionContext,
    parameters: SelfPlay,
    source: str,
    prompts: Sequence[Prompt],
    read: Reader,
) -> Corpus:
    """Both roles: the proposals to the prompts, and responses to the questions that are accepted."""
    asking, proposed = ask_proposers(context, parameters, source, prompts)
    rules = replace(context.rules, languages=languages_of(prompt.text for prompt in prompts))
    decided = decide((read(one, rules) for one in proposed), rules, Known(context.written["prompt"]))
    return Corpus(
        tasks=pl.concat([asking, decided.tasks]),
        samples=pl.concat([samples_of(proposed), ask_solvers(context, parameters, source, decided.tasks)]),
        proposals=decided.proposals,
    )


def question_and_answer(text: str, *, ended: bool) -> tuple[str, str] | None:
    """The first question and answer in a text; None if there is none, or if the answer may go on."""
    match = _FORM.search(text)
    if match is None or (match.end() == len(text) and not text.endswith("\n") and not ended):
        return None
    return match[1], match[2]


def _read_question(one: Proposed, rules: Rules) -> Proposal:
    """What R-Zero's proposer said, as a proposal: the answer is only claimed."""
    found = question_and_answer(one.text, ended=one.ended)
    if found is None:
        return _formless("r_zero", one, rules)
    question, answer = found
    proposal = replace(_proposal("r_zero", one), prompt=question, claimed=answer)
    if words(question) == words(answer):
        return proposal.rejected(Reason.FORM, "the question is its answer")
    return _too_long(proposal, answer) or proposal


def _read_grounded(one: Proposed, rules: Rules) -> Proposal:
    """What SPICE's proposer said, as a proposal: the answer has to stand in the passage."""
    found = question_and_answer(one.text, ended=one.ended)
    if found is None:
        return _formless("spice", one, rules)
    question, said = found
    answer = said.strip(" .*\"'`")
    verifier = "exact" if re.fullmatch(r"[-+]?[\d.,]*\d", answer) else "contains"
    proposal = replace(_proposal("spice", one), prompt=question, answer=answer, verifier=verifier)
    if (fault := text_fault(question, languages=rules.languages) or text_fault(answer)) is not None:
        return proposal.rejected(*fault)
    if match := _POINTS_BACK.search(question):
        return proposal.rejected(Reason.FORM, f"it points to a text that is not shown: {match[0]}")
    if not stands_in(answer, one.prompt.given):
        return proposal.rejected(Reason.UNSUPPORTED, answer[:_LONGEST_ANSWER])
    if stands_in(answer, question):
        return proposal.rejected(Reason.FORM, "the question says its answer")
    return _too_long(proposal, answer) or proposal


def _proposal(source: str, one: Proposed) -> Proposal:
    return Proposal(
        method=source,
        skill=one.prompt.given if source == "r_zero" and one.prompt.given else source,
        prompt=one.text,
        origins=one.origins,
        draft_id=one.sample["sample_id"],
    )


def _formless(source: str, one: Proposed, rules: Rules) -> Proposal:
    """A proposal that cannot be read, with the reason that says most."""
    fault = text_fault(one.text, ended=one.ended, languages=rules.languages)
    return _proposal(source, one).rejected(*(fault or (Reason.FORM, "no question with its answer")))


def _too_long(proposal: Proposal, answer: str) -> Proposal | None:
    if len(answer) <= _LONGEST_ANSWER:
        return None
    return proposal.rejected(Reason.FORM, f"an answer of {len(answer)} characters")
