"""What a reward is given."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class RewardContext:
    """What a reward may look at.

    `tasks` (records.TASKS) and the `samples` of them (records.SAMPLES) that are to be judged; `rewards` are
    the judgements (records.REWARDS) of the rewards that stand before this one in the recipe.
    """

    tasks: pl.DataFrame
    samples: pl.DataFrame
    rewards: pl.DataFrame
    seed: int
