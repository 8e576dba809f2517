"""Self-Refine: the policy criticises its answer and writes it again (survey 5.3)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_FINE = "no problem"
_FEEDBACK = (
    "Check your answer step by step. If it is right, say only: no problem. "
    "Otherwise say in one sentence what is wrong."
)
_AGAIN = "Answer the question again with that in mind. {question}"


class SelfRefine(RefinementParameters):
    """Parameters of `self_refine`."""

    iterations: int = Field(default=2, ge=1, description="Times that an answer may be criticised.")
    feedback_tokens: int = Field(default=48, ge=1, description="Tokens of a criticism.")


@method("refinement", "self_refine", parameters=SelfRefine, section="5.3", paper="arXiv:2303.17651")
def self_refine(context: RefinementContext, parameters: SelfRefine) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy gives feedback on its own answer and revises it, until it has nothing to say.

    In: the greedy answer; signal: the policy's own feedback, without any ground truth; out: the last answer.
    A criticism or an answer that is empty ends the refinement of that task. `agreement` is 1 where the last
    criticism found no problem. That a policy finds its own mistakes is not a given (arXiv:2310.01798): look
    at the flips.
    """
    talk = Conversation(context)
    answers = dict(talk.before)
    chats = {task.task_id: talk.plain(task) for task in talk.tasks}
    questions = {task.task_id: talk.plain(task)[-1]["content"] for task in talk.tasks}
    content: set[str] = set()
    going = list(chats)
    for number in range(1, parameters.iterations + 1):
        criticised = {id_: replied(chats[id_], answers[id_]["response"], _FEEDBACK) for id_ in going}
        feedback = talk.ask(
            [Turn(id_, criticised[id_], answers[id_]["sample_id"]) for id_ in going],
            f"criticising {number}",
            temperature=0,
            max_new_tokens=parameters.feedback_tokens,
            generation="I",
        )
        content |= {row["task_id"] for row in feedback if _FINE in row["response"].casefold()}
        said = {row["task_id"]: row for row in feedback if row["response"].strip()}
        going = [id_ for id_ in going if id_ in said and id_ not in content]
        for id_ in going:
            chats[id_] = replied(
                criticised[id_], said[id_]["response"], _AGAIN.format(question=questions[id_])
            )
        revised = talk.ask(
            [Turn(id_, chats[id_], answers[id_]["sample_id"]) for id_ in going],
            f"revising {number}",
            temperature=0,
            max_new_tokens=context.max_new_tokens,
            generation="R",
        )
        going = [row["task_id"] for row in revised if row["response"].strip()]
        answers |= {row["task_id"]: row for row in revised if row["response"].strip()}
    return talk.samples, [
        Refined(id_, row["sample_id"], float(id_ in content), talk.tokens(id_))
        for id_, row in answers.items()
    ]
