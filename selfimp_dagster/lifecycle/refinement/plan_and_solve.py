"""Plan-and-solve: a plan first, then its steps, then the answer (survey 5.3)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_PLAN = (
    "{prompt}\n\nLet's first understand the problem and devise a plan to solve the problem. Then, let's "
    "carry out the plan and solve the problem step by step."
)


class PlanAndSolve(RefinementParameters):
    """Parameters of `plan_and_solve`."""

    plan_tokens: int = Field(default=128, ge=1, description="Tokens of the plan and its steps.")


@method("refinement", "plan_and_solve", parameters=PlanAndSolve, section="5.3", paper="arXiv:2305.04091")
def plan_and_solve(
    context: RefinementContext, parameters: PlanAndSolve
) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy plans, works through its plan, and answers with all of it in sight (PS prompting).

    In: the task alone; signal: none, the reasoning in between; out: the answer that ends it. Where that is
    empty the greedy answer stays, with `agreement` 0; else 1.
    """
    talk = Conversation(context)
    asked = {
        task.task_id: ({"role": "user", "content": _PLAN.format(prompt=task.prompt)},) for task in talk.tasks
    }
    plans = talk.ask(
        [Turn(id_, chat) for id_, chat in asked.items()],
        "planning",
        temperature=0,
        max_new_tokens=parameters.plan_tokens,
        generation="I",
    )
    turns = [
        Turn(
            task.task_id,
            replied(asked[task.task_id], plan["response"], talk.plain(task)[-1]["content"]),
            plan["sample_id"],
        )
        for task, plan in zip(talk.tasks, plans, strict=True)
    ]
    answers = talk.ask(
        turns, "answering by plan", temperature=0, max_new_tokens=context.max_new_tokens, generation="I"
    )
    return talk.samples, [
        Refined(
            row["task_id"],
            (row if row["response"].strip() else talk.before[row["task_id"]])["sample_id"],
            float(bool(row["response"].strip())),
            talk.tokens(row["task_id"]),
        )
        for row in answers
    ]
