"""Best-of-N: the sample that the reward likes best (survey 5.2)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method


class BestOfN(RefinementParameters):
    """Parameters of `best_of_n`."""

    samples: int = Field(default=4, ge=2, description="Samples of each task to choose from.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of the samples.")
    reward: str | None = Field(
        default=None,
        description="The reward of the recipe that ranks: `reward_model`, V-STaR's `verifier`, ... None: "
        "the first.",
    )


@method("refinement", "best_of_n", parameters=BestOfN, section="5.2", paper="arXiv:2110.14168")
def best_of_n(context: RefinementContext, parameters: BestOfN) -> tuple[pl.DataFrame, list[Refined]]:
    """The sample with the highest reward replaces the greedy answer.

    In: N samples of each task and the greedy answer; signal: a reward of the recipe (Cobbe et al. 2021
    train a verifier for it; `verifier` and `reward_model` are such ones); out: the best of them, the shortest
    among equals. `agreement` is the share of the judged samples that have the best value. Where nothing is
    judged, the greedy answer stays.
    """
    talk = Conversation(context)
    drawn = talk.draw(
        "sampling candidates",
        times=parameters.samples,
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
    )
    values = context.judge(pl.concat([context.before, talk.samples]), parameters.reward)
    refined = []
    for task, rows in zip(talk.tasks, drawn, strict=True):
        greedy = talk.before[task.task_id]
        judged = [row for row in (greedy, *rows) if row["sample_id"] in values]
        best = min(
            judged,
            key=lambda row: (-values[row["sample_id"]], len(row["response"]), row["sample_id"]),
            default=greedy,
        )
        equal = [row for row in judged if values[row["sample_id"]] == values[best["sample_id"]]]
        agreement = len(equal) / len(judged) if judged else 0.0
        refined.append(Refined(task.task_id, best["sample_id"], agreement, talk.tokens(task.task_id)))
    return talk.samples, refined
