"""Reflexion: failed attempts leave a lesson in words for the next one (survey 5.3)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn, added, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_REFLECT = (
    "That answer was judged to be wrong. In one or two sentences: what was the likely mistake, and how will "
    "you avoid it next time?"
)


class Reflexion(RefinementParameters):
    """Parameters of `reflexion`."""

    attempts: int = Field(default=2, ge=1, description="Further attempts at a task that failed.")
    temperature: float = Field(default=0.7, ge=0, description="Softmax temperature of a further attempt.")
    reflection_tokens: int = Field(default=48, ge=1, description="Tokens of a reflection.")
    memory: int = Field(default=3, ge=1, description="Latest reflections that an attempt is shown.")


@method("refinement", "reflexion", parameters=Reflexion, section="5.3", paper="arXiv:2303.11366")
def reflexion(context: RefinementContext, parameters: Reflexion) -> tuple[pl.DataFrame, list[Refined]]:
    """Tasks whose reward is under 1 are reflected on in words and tried again with these reflections.

    In: the greedy answer; signal: the recipe's first reward of each attempt (the paper's evaluator), which
    says that an attempt failed, not what is right; out: the last attempt. An attempt that is not judged is
    not repeated. `agreement` is the reward of the answer, held to 0 to 1.
    """
    talk = Conversation(context)
    plain = {task.task_id: talk.plain(task) for task in talk.tasks}
    answers = dict(talk.before)
    values = dict(context.judge(context.before))
    lessons: dict[str, list[str]] = {id_: [] for id_ in answers}
    for number in range(1, parameters.attempts + 1):
        failed = [id_ for id_, row in answers.items() if values.get(row["sample_id"], 1.0) < 1]
        reflections = talk.ask(
            [
                Turn(id_, replied(plain[id_], answers[id_]["response"], _REFLECT), answers[id_]["sample_id"])
                for id_ in failed
            ],
            f"reflecting {number}",
            temperature=0,
            max_new_tokens=parameters.reflection_tokens,
            generation="I",
        )
        for row in reflections:
            if row["response"].strip():
                lessons[row["task_id"]].append(row["response"].strip())
        attempts = talk.ask(
            [
                Turn(
                    id_,
                    added(plain[id_], _remembered(lessons[id_][-parameters.memory :])),
                    answers[id_]["sample_id"],
                )
                for id_ in failed
                if lessons[id_]
            ],
            f"trying again {number}",
            temperature=parameters.temperature,
            max_new_tokens=context.max_new_tokens,
            generation="R",
        )
        answers |= {row["task_id"]: row for row in attempts}
        values |= context.judge(pl.concat([context.before, talk.samples]).filter(_of(attempts)))
    return talk.samples, [
        Refined(
            id_, row["sample_id"], min(1.0, max(0.0, values.get(row["sample_id"], 0.0))), talk.tokens(id_)
        )
        for id_, row in answers.items()
    ]


def _of(rows: list[dict[str, object]]) -> pl.Expr:
    return pl.col("sample_id").is_in([row["sample_id"] for row in rows])


def _remembered(lessons: list[str]) -> str:
    return "You failed at this before. What you noted:\n" + "\n".join(f"- {lesson}" for lesson in lessons)
