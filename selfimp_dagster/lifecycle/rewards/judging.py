"""How the rewards of a recipe judge samples, one after the other.

A reward is a registered function `(context, parameters) -> frame` that judges samples by its own name: rows
of records.REWARDS, at most one per sample. A sample that it says nothing of has no row, or one without a
value that says why.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.rewards.answer import ANSWER, answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import JudgeParameters, NamedParameters
from selfimp_dagster.lifecycle.rewards.sources import IncumbentWeights
from selfimp_dagster.records import REWARDS, canonical_json, check_schema, frame
from selfimp_dagster.registry import Method


@dataclass(frozen=True)
class Reward:
    """One reward of a recipe: a registered method and its parameters."""

    method: Method
    parameters: BaseModel

    @property
    def name(self) -> str:
        """What its judgements are called."""
        own = self.parameters.name if isinstance(self.parameters, NamedParameters) else None
        return own or self.method.name


def check_rewards(rewards: Sequence[Reward]) -> None:
    """Refuses rewards that cannot judge.

    Raises:
        SelfimpError: two have the same name, a composed reward has a part that does not stand before it, or
            the incumbent would judge samples that it drew itself and is not told to.
    """
    before: set[str] = set()
    for position, reward in enumerate(rewards):
        where, parameters = f"recipe.rewards.{position}", reward.parameters
        if reward.name in before:
            raise SelfimpError(
                f"{reward.name} is there twice",
                where=where,
                fix="give one of them another `name`, if it takes one",
            )
        made_of = parameters.made_of if isinstance(parameters, NamedParameters) else frozenset()
        if missing := sorted(made_of - before):
            raise SelfimpError(
                f"{reward.name} is made of {', '.join(missing)}, which does not stand before it",
                where=where,
                fix=f"choose parts among: {', '.join(sorted(before)) or 'none, it is the first'}",
            )
        if (
            isinstance(parameters, JudgeParameters)
            and isinstance(parameters.judge, IncumbentWeights)
            and not parameters.own_samples
        ):
            raise SelfimpError(
                f"{reward.name} has the incumbent judge the corpus, which it drew itself",
                where=where,
                fix="choose another judge: source: base, model or endpoint; or set own_samples: true, if a "
                "model that rewards itself is what you want",
            )
        before.add(reward.name)


def judge_samples(rewards: Sequence[Reward], context: RewardContext) -> pl.DataFrame:
    """Every reward's judgements of the samples (records.REWARDS), sorted by sample and reward.

    A reward that is barred says nothing of any sample, and a judge nothing of samples that its own weights
    drew, unless it has `own_samples`; their rows have no value and say why.

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
    return judged.filter(pl.col("reward").is_in([reward.name for reward in rewards]))


def accepted(judged: pl.DataFrame, rewards: Sequence[Reward]) -> list[str]:
    """The samples that the first reward of the recipe gives its full value, 1 or more."""
    first = pl.col("reward") == rewards[0].name
    return judged.filter(first & (pl.col("value").fill_nan(None) >= 1))["sample_id"].to_list()


def _judged(reward: Reward, context: RewardContext) -> pl.DataFrame:
    name = reward.name
    if why := context.barred.get(name):
        return _abstains(name, context.samples["sample_id"], why)
    own = pl.lit(False)
    if isinstance(reward.parameters, JudgeParameters) and not reward.parameters.own_samples:
        weights = context.judge(reward.parameters.judge).policy_hash
        own = pl.col("policy_hash").eq_missing(weights) if weights else own
    drawn_by_judge = context.samples.filter(own)
    context = replace(context, samples=context.samples.filter(~own))
    judged = REWARDS.to_frame()
    if not context.samples.is_empty():
        judged = check_schema(reward.method.function(context, reward.parameters), REWARDS, f"reward {name}")
    known = judged.join(context.samples, on="sample_id", how="semi").height
    if known != judged.height or judged["sample_id"].is_duplicated().any():
        raise ValueError(f"reward {name} must judge each sample at most once, and no other")
    if not (judged["reward"] == name).all():
        raise ValueError(f"reward {name} judged by another name")
    same = "the judge has the weights that drew this sample, and nobody judges himself"
    return pl.concat([judged, _abstains(name, drawn_by_judge["sample_id"], same)])


def _abstains(name: str, samples: Iterable[str], why: str) -> pl.DataFrame:
    told = {"reward": name, "kind": "M", "confidence": 0.0, "evidence": canonical_json({"abstains": why})}
    return frame(({"sample_id": id_, **told} for id_ in samples), REWARDS)
