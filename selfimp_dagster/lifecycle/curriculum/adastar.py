"""Tasks that were not asked for long come first, of these the hardest."""

from collections.abc import Mapping

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.curriculum.lessons import CurriculumContext, Lessons
from selfimp_dagster.registry import method


class AdastarParameters(BaseModel):
    """Parameters of `adastar`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: int = Field(
        default=1000, ge=1, description="Train tasks that are chosen among, the same in every round."
    )
    reward: str = Field(default="answer", description="The reward that says whether a sample is right.")
    minimum: float = Field(default=1.0, description="The smallest value that is right.")


class Standing(BaseModel):
    """When a task was last asked, in rounds of this curriculum from 1, and what share was right then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked: int = Field(ge=1)
    right: float = Field(ge=0, le=1)


class AdastarState(BaseModel):
    """The round of this curriculum, from 1, and the standing of the tasks that were asked in earlier
    ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(ge=1)
    standings: dict[str, Standing]


@method(
    "curriculum",
    "adastar",
    parameters=AdastarParameters,
    section="3.2.2",
    paper="arXiv:2505.16322",
    needs=frozenset({"verifier"}),
    state=AdastarState,
)
def adastar(context: CurriculumContext, parameters: AdastarParameters) -> Lessons:
    """Asks the tasks of a fixed dataset in turns: those not asked for longest, and of these the hardest.

    AdaSTaR (Koh et al., arXiv:2505.16322): tasks are ordered by when they were last asked, then by the
    share that was right then. Of the m tasks of a round only the first floor(m * accuracy^2) are noted as
    asked; the others come again, which mixes in easy tasks while the policy is weak. As in the authors'
    code, accuracy is that of the round's samples. The paper asks until it has a batch of right answers;
    here a round asks the campaign's number of tasks. The dataset is drawn by the campaign's weights of
    the skills, and a directive does not change it.

    Raises:
        SelfimpError: the parent round's samples lack the reward.
    """
    state = AdastarState(number=1, standings={})
    if isinstance(context.state, AdastarState):
        outcomes = context.outcomes(parameters.reward).group_by("task_id", maintain_order=True)
        right = outcomes.agg((pl.col("value") >= parameters.minimum).mean())
        state = after_round(context.state, dict(right.iter_rows()))
    dataset = context.dataset(parameters.dataset)
    place = {task_id: number for number, task_id in enumerate(in_turn(dataset["task_id"].to_list(), state))}

    def draw(size: int, weights: Mapping[str, float]) -> pl.DataFrame:
        order = [place[task_id] for task_id in dataset["task_id"]]
        return dataset.filter(pl.Series(order, dtype=pl.Int64) < size)

    return Lessons(context.skill_weights, draw, state)


def in_turn(tasks: list[str], state: AdastarState) -> list[str]:
    """The tasks in the order in which they are asked; those of equal standing by their ids."""

    def turn(task_id: str) -> tuple[int, float, str]:
        standing = state.standings.get(task_id)
        return (standing.asked, standing.right, task_id) if standing else (0, 0.0, task_id)

    return sorted(tasks, key=turn)


def after_round(state: AdastarState, right: Mapping[str, float]) -> AdastarState:
    """The state of the next round, from the share of right samples of each task that was asked in this
    one.

    Every task counts alike in the accuracy.
    """
    accuracy = sum(right.values()) / len(right)
    noted = in_turn(list(right), state)[: int(len(right) * accuracy**2)]
    standings = {task_id: Standing(asked=state.number, right=right[task_id]) for task_id in noted}
    return AdastarState(number=state.number + 1, standings={**state.standings, **standings})
