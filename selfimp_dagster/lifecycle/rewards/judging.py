"""How the rewards of a recipe judge samples, one after the other.

A reward is a registered function `(context, parameters) -> frame` that judges samples by its own name: rows
of records.REWARDS, at most one per sample. A sample that it says nothing of has no row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.lifecycle.rewards.answer import ANSWER, answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.records import REWARDS, check_schema
from selfimp_dagster.registry import Method


@dataclass(frozen=True)
class Reward:
    """One reward of a recipe: a registered method and its parameters."""

    method: Method
    parameters: BaseModel

    @property
    def name(self) -> str:
        """What its judgements are called."""
        return self.method.name


def judge_samples(rewards: Sequence[Reward], context: RewardContext) -> pl.DataFrame:
    """Every reward's judgements of the samples (records.REWARDS), sorted by sample and reward.

    Raises:
        ValueError: a reward judged a sample twice, one that is not there, or by another name than its own.
    """
    for reward in rewards:
        context = replace(context, rewards=pl.concat([context.rewards, _judged(reward, context)]))
    return context.rewards.sort("sample_id", "reward")


def recorded_judgements(rewards: Sequence[Reward], context: RewardContext) -> pl.DataFrame:
    """The judgements of a recipe's rewards, and in any case those of the tasks' verifiers.

    The verdicts of the verifiers (reward `answer`) are what pass rates are measured with. Where the recipe
    does not name that reward, no stage that makes the candidate may see them: see `visible`.
    """
    judged = judge_samples(rewards, context)
    if any(reward.method.name == ANSWER for reward in rewards):
        return judged
    measured = answer_rewards(context.tasks, context.samples)
    return pl.concat([judged, measured]).sort("sample_id", "reward")


def visible(judged: pl.DataFrame, rewards: Sequence[Reward]) -> pl.DataFrame:
    """The judgements that the stages of a recipe with these rewards may look at."""
    return judged.filter(pl.col("reward").is_in([reward.method.name for reward in rewards]))


def accepted(judged: pl.DataFrame, rewards: Sequence[Reward]) -> list[str]:
    """The samples that the first reward of the recipe gives its full value, 1 or more."""
    first = pl.col("reward") == rewards[0].method.name
    return judged.filter(first & (pl.col("value").fill_nan(None) >= 1))["sample_id"].to_list()


def _judged(reward: Reward, context: RewardContext) -> pl.DataFrame:
    name = reward.method.name
    judged = check_schema(reward.method.function(context, reward.parameters), REWARDS, f"reward {name}")
    known = judged.join(context.samples, on="sample_id", how="semi").height
    if known != judged.height or judged["sample_id"].is_duplicated().any():
        raise ValueError(f"reward {name} must judge each sample at most once, and no other")
    if not (judged["reward"] == name).all():
        raise ValueError(f"reward {name} judged by another name")
    return judged
