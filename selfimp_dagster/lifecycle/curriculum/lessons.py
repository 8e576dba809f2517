"""What a curriculum is given and what it decides.

A curriculum is a registered function `(context, parameters) -> Lessons`. It acts before anything is
sampled, on the draw of train tasks, whatever the acquisition method does with them. Its state is that of the
parent round, brought up to date with what the parent's samples earned: a round that is run again begins from
the same state and leaves the same one, and a branch begins from that of its parent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError

Draw = Callable[[int, Mapping[str, float]], pl.DataFrame]
"""So many train tasks (records.TASKS) by the weights of the skills."""

OUTCOMES = pl.Schema(
    {
        "sample_id": pl.String(),
        "task_id": pl.String(),
        "skill": pl.String(),
        "difficulty": pl.Float64(),
        "value": pl.Float64(),
    }
)
"""What the samples that the parent round drew without help earned."""


@dataclass(frozen=True)
class CurriculumContext:
    """What a curriculum may use.

    `draw` gives train tasks, others in every round; `dataset` gives so many that are the same in every
    round of the campaign. `skill_weights` are those of the campaign, or of a directive. `tasks`,
    `samples` and `rewards` are the parent round's, as far as the recipe sees them; empty in a first
    round. `state` is what the same curriculum left in the parent round.
    """

    draw: Draw
    dataset: Callable[[int], pl.DataFrame]
    skill_weights: Mapping[str, float]
    tasks: pl.DataFrame
    samples: pl.DataFrame
    rewards: pl.DataFrame
    seed: int
    state: BaseModel | None = None

    def outcomes(self, reward: str) -> pl.DataFrame:
        """What the parent's samples earned of that reward (OUTCOMES), by task and sample; empty in a
        first round.

        Raises:
            SelfimpError: the parent drew samples and none of them has the reward.
        """
        earned = self.rewards.filter(pl.col("reward") == reward).with_columns(pl.col("value").fill_nan(None))
        found = (
            self.samples.select("sample_id", "task_id")
            .join(self.tasks.select("task_id", "skill", "difficulty"), on="task_id")
            .join(earned.select("sample_id", "value"), on="sample_id")
            .drop_nulls("value")
            .select(list(OUTCOMES))
            .sort("task_id", "sample_id")
        )
        if found.is_empty() and not self.samples.is_empty():
            raise SelfimpError(
                f"no sample of the parent round has a reward {reward!r}",
                where="recipe.curriculum: reward",
                fix=f"name a reward that the recipe lists, or add {reward!r} to its rewards",
            )
        return found


@dataclass(frozen=True)
class Lessons:
    """What a round samples: by which weights of the skills, which tasks, and the state that led to it."""

    skill_weights: Mapping[str, float]
    draw: Draw
    state: BaseModel


def multiplied(weights: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """The weights of the skills times what a curriculum makes of them; they add up to 1."""
    products = {skill: weight * shares[skill] for skill, weight in weights.items()}
    total = sum(products.values())
    return {skill: product / total for skill, product in products.items()}
