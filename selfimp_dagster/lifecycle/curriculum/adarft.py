"""A target difficulty that rises while the policy does well."""

import math
from collections.abc import Mapping
from typing import Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfimp_dagster.lifecycle.curriculum.lessons import CurriculumContext, Lessons
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method


class AdarftParameters(BaseModel):
    """Parameters of `adarft`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    easiest: float = Field(
        description="Difficulty at which the target begins, and below which it never falls."
    )
    hardest: float = Field(description="Difficulty above which the target never rises.")
    step: float | None = Field(
        default=None,
        gt=0,
        description="The most that the target moves in a round; none: half the way from easiest to hardest.",
    )
    sensitivity: float = Field(
        default=2.0, gt=0, description="How soon a distance in reward moves it so far."
    )
    target_reward: float = Field(default=0.5, description="Mean reward at which the target stays.")
    candidates: int = Field(
        default=4, ge=1, description="Tasks drawn for each that is chosen by its difficulty."
    )
    reward: str = Field(default="answer", description="The reward whose mean is looked at.")

    @model_validator(mode="after")
    def _easiest_is_below_hardest(self) -> Self:
        if self.easiest >= self.hardest:
            raise ValueError(f"easiest {self.easiest:g} is not below hardest {self.hardest:g}")
        return self


class AdarftState(BaseModel):
    """The difficulty that the round's tasks are chosen by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: float


@method(
    "curriculum",
    "adarft",
    parameters=AdarftParameters,
    section="3.2.2",
    paper="arXiv:2504.05520",
    needs=frozenset({"verifier"}),
    state=AdarftState,
)
def adarft(context: CurriculumContext, parameters: AdarftParameters) -> Lessons:
    """Draws the tasks nearest to a target difficulty, which the mean reward of each round moves.

    AdaRFT (Shi et al., arXiv:2504.05520): target += step * tanh(sensitivity * (mean reward - target
    reward)), held between the easiest and the hardest. A task has the difficulty that its skill's source
    states: make levels into skills. Candidates are drawn by the weights of the skills; equally near ones
    are drawn by the seed. A step of the paper is a batch, here it is a round.

    Raises:
        SelfimpError: the parent round's samples lack the reward.
    """
    if isinstance(context.state, AdarftState):
        rewards = context.outcomes(parameters.reward)["value"]
        target = moved_target(context.state.target, float(rewards.mean()), parameters)  # type: ignore[arg-type]
    else:
        target = parameters.easiest

    def draw(size: int, weights: Mapping[str, float]) -> pl.DataFrame:
        drawn = context.draw(parameters.candidates * size, weights)
        luck = [derive_seed(context.seed, "adarft", task_id) for task_id in drawn["task_id"]]
        return (
            drawn.with_columns(
                distance=(pl.col("difficulty") - target).abs(), luck=pl.Series(luck, dtype=pl.Int64)
            )
            .sort("distance", "luck")
            .head(size)
            .select(drawn.columns)
            .sort("skill", "task_id")
        )

    return Lessons(context.skill_weights, draw, AdarftState(target=target))


def moved_target(target: float, mean_reward: float, parameters: AdarftParameters) -> float:
    """The target difficulty after a round of that mean reward."""
    step = (parameters.hardest - parameters.easiest) / 2 if parameters.step is None else parameters.step
    moved = target + step * math.tanh(parameters.sensitivity * (mean_reward - parameters.target_reward))
    return min(max(moved, parameters.easiest), parameters.hardest)
