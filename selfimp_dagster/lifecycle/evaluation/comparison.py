"""Two rounds side by side: their candidates on the same items, and what differs in how they were made."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import ASSET, read_report
from selfimp_dagster.lifecycle.evaluation.scores import item_weights, pair_arms, paired_counts
from selfimp_dagster.lifecycle.evaluation.statistics import mcnemar_exact, paired_difference_interval
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.records import EVALUATIONS, TRAINING
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

_STAGES = ("incumbent_policy", "generated_corpus", "selected_subset", "checkpoint", "refined_outputs", ASSET)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkillDifference(_Frozen):
    """Both candidates on the items of a skill that both answered; the difference is second minus first."""

    suite: str
    skill: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float


class Difference(_Frozen):
    """A field that is not the same in both rounds, and its two values."""

    field: str
    first: str
    second: str


class Comparison(_Frozen):
    """Two rounds. Rates are shares, intervals have a confidence of 95 %, counts are of items or rows.

    `gain` is the second candidate's accuracy less the first's on the first round's mix of skills, over
    `n` anchor and fresh items; `p_value` that of the exact McNemar test on the items won and lost, for
    these two rounds alone: whoever compares many pairs must correct for it.
    """

    first: str
    second: str
    n: int
    wins: int
    losses: int
    gain: float
    low: float
    high: float
    p_value: float
    skills: tuple[SkillDifference, ...]
    made: tuple[Difference, ...]
    rows_of_both: int
    rows_of_first: int
    rows_of_second: int

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        return (
            f"Against {self.first}, {self.second} won {self.wins} items and lost {self.losses} of {self.n}: "
            f"{self.gain:+.3f} on the mix (95 % interval {self.low:+.3f} to {self.high:+.3f}, "
            f"p = {self.p_value:.2g})."
        )


def compare(store: ArtifactStore, first: RoundKey, second: RoundKey) -> Comparison:
    """The candidates of two finished rounds on the items that both answered.

    Rounds of one campaign share their anchor and guard items, and their fresh items where two branches
    give them the same round number.

    Raises:
        SelfimpError: a round is not finished or was altered, they share no item, or they were measured
            under different harnesses.
    """
    pairs = _paired(store, first, second)
    tested = pairs.filter(pl.col("suite") != "guard").unique("item_id", keep="first", maintain_order=True)
    if tested.is_empty():
        raise SelfimpError(
            "the rounds share no anchor or fresh item",
            where=f"{first} and {second}",
            fix="compare rounds whose campaigns have the same skills, seed and pools",
        )
    policies = [read_policy(store, key)[0] for key in (first, second)]
    weights = item_weights(tested["skill"].to_list(), policies[0].campaign.skill_weights)
    differences = (tested["after"] - tested["before"]).to_numpy()
    interval = paired_difference_interval(differences, weights=weights)
    wins, losses, _ = paired_counts(tested)
    rows = [
        set(store.open(key, "checkpoint").table("training", TRAINING)["sample_id"]) for key in (first, second)
    ]
    return Comparison(
        first=str(first),
        second=str(second),
        n=tested.height,
        wins=wins,
        losses=losses,
        gain=float(differences @ weights),
        low=interval.low,
        high=interval.high,
        p_value=mcnemar_exact(wins, losses),
        skills=tuple(_by_skill(pairs)),
        made=tuple(_made(store, first, second, policies)),
        rows_of_both=len(rows[0] & rows[1]),
        rows_of_first=len(rows[0] - rows[1]),
        rows_of_second=len(rows[1] - rows[0]),
    )


def _paired(store: ArtifactStore, first: RoundKey, second: RoundKey) -> pl.DataFrame:
    """Rows of scores.PAIRS for the items that both candidates answered."""
    answers = [
        store.open(key, ASSET)
        .table("evaluations", EVALUATIONS)
        .filter(pl.col("arm") == "candidate")
        .with_columns(arm=pl.lit(arm))
        for key, arm in ((first, "first"), (second, "second"))
    ]
    both = ["suite", "item_id"]
    shared = answers[0].select(both).join(answers[1].select(both), on=both)
    if shared.is_empty():
        return pl.DataFrame(schema={"suite": pl.String, "item_id": pl.String})
    return pair_arms(pl.concat(answers).join(shared, on=both, how="semi"), "first", "second")


def _by_skill(pairs: pl.DataFrame) -> Iterator[SkillDifference]:
    for (suite, skill), items in sorted(pairs.partition_by("suite", "skill", as_dict=True).items()):
        differences = (items["after"] - items["before"]).to_numpy()
        interval = paired_difference_interval(differences)
        yield SkillDifference(
            suite=suite,
            skill=skill,
            n=items.height,
            first=items["before"].to_numpy().mean(),
            second=items["after"].to_numpy().mean(),
            difference=differences.mean(),
            low=interval.low,
            high=interval.high,
        )


def _made(
    store: ArtifactStore, first: RoundKey, second: RoundKey, policies: list[Policy]
) -> Iterator[Difference]:
    """What differs in start, campaign, code and harness."""
    for field, told in (
        ("", [policy.model_dump(mode="json", exclude={"round"}) for policy in policies]),
        ("code version.", [_code_versions(store, key) for key in (first, second)]),
        ("harness.", [read_report(store, key).harness for key in (first, second)]),
    ):
        yield from _differences(told[0], told[1], field)


def _code_versions(store: ArtifactStore, key: RoundKey) -> dict[str, str]:
    return {stage: store.open(key, stage, verify=False).manifest.code_version for stage in _STAGES}


def _differences(
    first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{prefix}{name}.")
        elif one != other:
            yield Difference(field=f"{prefix}{name}", first=str(one), second=str(other))
