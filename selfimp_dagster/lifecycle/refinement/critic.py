"""CRITIC: a tool checks the answer, and the policy corrects itself by what the tool says (survey 5.3)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import comparable_answer
from selfimp_dagster.tools.calculator import CannotCalculate, calculate, first_expression, written

_EXPRESS = (
    "Write the calculation that answers this question as one expression, such as 3 * (4 + 5), nothing else."
)
_CORRECT = "A calculator says that {expression} is {value}. Your answer was {answer}. {question}"


class Critic(RefinementParameters):
    """Parameters of `critic`."""

    expression_tokens: int = Field(default=32, ge=1, description="Tokens of the expression to be calculated.")


@method("refinement", "critic", parameters=Critic, section="5.3", paper="arXiv:2305.11738")
def critic(context: RefinementContext, parameters: Critic) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy writes its question as a calculation, a calculator evaluates it, the policy answers anew.

    In: the greedy answer; signal: the calculator's value, which the policy compares with its answer; out: the
    corrected answer. An answer that the calculator confirms is kept without asking again, and so is one for
    which no expression could be calculated; only the confirmed one has `agreement` 1. The paper's other tools
    (search, interpreter) are not offered, and there is one round of correction.
    """
    talk = Conversation(context)
    answers = dict(talk.before)
    expressions = talk.ask(
        [Turn(task.task_id, replied(talk.plain(task), _said(talk, task), _EXPRESS)) for task in talk.tasks],
        "writing calculations",
        temperature=0,
        max_new_tokens=parameters.expression_tokens,
        generation="I",
    )
    confirmed, turns = set(), []
    for task, row in zip(talk.tasks, expressions, strict=True):
        expression = first_expression(row["response"])
        try:
            value = written(calculate(expression or ""))
        except CannotCalculate:
            continue
        answer = comparable_answer(task, _said(talk, task))
        if answer == comparable_answer(task, value):
            confirmed.add(task.task_id)
            continue
        told = _CORRECT.format(
            expression=expression, value=value, answer=answer, question=talk.plain(task)[-1]["content"]
        )
        chat = replied(talk.plain(task), _said(talk, task), told)
        turns.append(Turn(task.task_id, chat, talk.before[task.task_id]["sample_id"]))
    corrected = talk.ask(
        turns, "correcting", temperature=0, max_new_tokens=context.max_new_tokens, generation="R"
    )
    answers |= {row["task_id"]: row for row in corrected if row["response"].strip()}
    return talk.samples, [
        Refined(id_, row["sample_id"], float(id_ in confirmed), talk.tokens(id_))
        for id_, row in answers.items()
    ]


def _said(talk: Conversation, task: Task) -> str:
    response: str = talk.before[task.task_id]["response"]
    return response
