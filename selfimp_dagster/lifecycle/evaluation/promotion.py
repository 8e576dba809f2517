"""Promotion: the verdict that a candidate becomes the incumbent of the next round."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.continuation import Continuation
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading
from selfimp_dagster.lifecycle.evaluation.scores import (
    item_weights,
    pair_arms,
    paired_counts,
    policy_of,
)
from selfimp_dagster.lifecycle.evaluation.statistics import (
    CriticalWins,
    PastTest,
    e_value_critical_wins,
    e_value_p,
    level_of_round,
    mcnemar_critical_wins,
    mcnemar_exact,
    minimum_guard_items,
    minimum_items,
    non_inferiority,
    non_inferiority_power,
    paired_bootstrap,
    paired_difference_interval,
    paired_power,
    sign_flip_permutation,
)
from selfimp_dagster.records import derive_seed

_CONFIDENCE = 0.95  # of the reported gain; no decision hangs on it
_GAINS = (0.03, 0.05, 0.08, 0.12, 0.2)  # what the table of powers shows
_CRITICAL_WINS: dict[str, CriticalWins] = {
    "p_value": mcnemar_critical_wins,
    "e_value": e_value_critical_wins,
}


class PromotionRule(BaseModel):
    """When a candidate is promoted, and how small a gain the campaign must be able to see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(
        default=0.05, gt=0, le=0.5, description="Chance of any false promotion in the whole campaign."
    )
    test: Literal["p_value", "e_value"] = Field(
        default="p_value",
        description="p_value: exact McNemar or sign-flip permutation, one evaluation per round; e_value: an "
        "evaluation may be extended by more items and tested again, at the price of power.",
    )
    suites: tuple[Literal["anchor", "fresh"], ...] = Field(
        default=("anchor", "fresh"), min_length=1, description="Suites whose items enter the test."
    )
    guard_alpha: float = Field(
        default=0.05, gt=0, lt=1, description="Error of a round's guard, over all guard skills."
    )
    guard_margin: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Fall in accuracy that must be excluded for every guard skill; null: a candidate is "
        "rejected only where a fall is proven.",
    )
    minimum_gain: float = Field(
        default=0.05, gt=0, lt=1, description="Gain in accuracy that the campaign wants to detect."
    )
    power: float = Field(
        default=0.8, gt=0, lt=1, description="Chance to detect a gain of that size in a round."
    )
    discordance: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Assumed share of items on which the arms disagree (for the power check only).",
    )


class GuardResult(BaseModel):
    """One guard skill, measured on the same items by both arms. Accuracies are shares.

    `regressed`: its interval is wholly below 0; with a margin, that a fall by the margin is not excluded.
    `p_value` is that of the test which excludes it, null without a margin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    skill: str
    incumbent: float
    candidate: float
    difference: float  # candidate minus incumbent
    low: float
    high: float
    n: int
    regressed: bool
    p_value: float | None = None


class Verdict(BaseModel):
    """The verdict on a candidate, with what it rests on.

    `raised` names the monitors whose alarm sounds, `alarms` are the sentences of those that stop the
    campaign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    promoted: bool
    test: Literal["exact McNemar", "sign-flip permutation", "e-value"]
    p_value: float  # 1 / e for an e-value
    alpha: float  # of this round
    wins: int
    losses: int
    ties: int
    n: int
    gain: float  # accuracy on the campaign's mix, candidate minus incumbent
    gain_low: float
    gain_high: float
    reasons: tuple[str, ...]
    guards: tuple[GuardResult, ...]
    alarms: tuple[str, ...]
    raised: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The verdict in words: its reasons, the test that it rests on, and the gain with its interval."""
        guards = "; ".join(
            f"{guard.skill} {guard.incumbent:.3f} to {guard.candidate:.3f} (interval of the difference "
            f"{guard.low:+.3f} to {guard.high:+.3f})"
            for guard in self.guards
        )
        return (
            f"{' '.join(self.reasons)} Gain on the campaign's mix {self.gain:+.3f} (95 % interval "
            f"{self.gain_low:+.3f} to {self.gain_high:+.3f}); {self.test} test, p = {self.p_value:.2g} at "
            f"level {self.alpha:.3g}, {self.ties} items tied."
            + (f" Guard skills: {guards}." if guards else "")
        )


class Power(NamedTuple):
    """A gain, the chance that a round's test sees it, and the items that it takes for `rule.power`."""

    gain: float
    power: float
    items: int


def lowest_level(rule: PromotionRule, plan: Continuation) -> float:
    """The level of the last round that `patience` allows before a first promotion."""
    last = plan.patience if plan.rounds is None else min(plan.patience, plan.rounds)
    return level_of_round(rule.alpha, plan.rounds, plan.patience, last - 1)


def power_table(rule: PromotionRule, items: int, plan: Continuation) -> list[Power]:
    """Powers at `lowest_level` for some gains, `rule.minimum_gain` among them.

    Where a gain exceeds `rule.discordance`, the gain is the discordance.

    Args:
        rule: the promotion rule.
        items: items under test in a round, over `rule.suites`.
        plan: the campaign's continuation.
    """
    return [_power(rule, gain, items, plan) for gain in sorted({*_GAINS, rule.minimum_gain})]


def check_power(rule: PromotionRule, items: int, plan: Continuation) -> float:
    """The power of a round's test to see `rule.minimum_gain` at `lowest_level`, a probability.

    Args:
        rule: the promotion rule; if the gain exceeds its discordance, the gain is the discordance.
        items: items under test in a round, over `rule.suites`.
        plan: the campaign's continuation.

    Raises:
        SelfimpError: the items are too few for that gain, with how many it takes.
    """
    gain, power, needed = _power(rule, rule.minimum_gain, items, plan)
    if power < rule.power:
        raise SelfimpError(
            f"{items} evaluation items detect a gain of {gain:g} with probability {power:.2f}, not "
            f"{rule.power:g} (level {lowest_level(rule, plan):.2g}, the lowest that alpha {rule.alpha:g} has "
            f"come to before a first promotion, assuming that the arms disagree on a share of "
            f"{max(rule.discordance, gain):g} of the items)",
            where="promotion",
            fix=f"evaluate at least {needed} items in {' and '.join(rule.suites)} together, lower "
            "continuation.patience, or raise promotion.minimum_gain",
        )
    return power


def check_guard(rule: PromotionRule, items: Mapping[str, int]) -> float:
    """The chance that a candidate just as good as its incumbent passes the guard, for `rule.guard_margin`.

    Args:
        rule: the promotion rule; without a margin every such candidate counts as passing.
        items: items of each guard skill, assumed to disagree between the arms on a share
            `rule.discordance`.

    Raises:
        SelfimpError: the items are too few to exclude a fall by the margin, with how many it takes.
    """
    if rule.guard_margin is None or not items:
        return 1.0
    powers = [
        non_inferiority_power(n, rule.guard_margin, rule.discordance, rule.guard_alpha) if n else 0.0
        for n in items.values()
    ]
    if prod(powers) < rule.power:
        each = rule.power ** (1 / len(items))
        needed = minimum_guard_items(rule.guard_margin, rule.discordance, rule.guard_alpha, each)
        raise SelfimpError(
            f"a candidate just as good as its incumbent would pass the guard with probability "
            f"{prod(powers):.2f}, not {rule.power:g}: {sum(items.values())} items of {', '.join(items)} do "
            f"not exclude a fall by {rule.guard_margin:g} (assuming that the arms disagree on a share of "
            f"{rule.discordance:g} of them)",
            where="promotion.guard_margin",
            fix=f"give every guard skill at least {needed} items (pools.guard), or raise the margin",
        )
    return prod(powers)


def _power(rule: PromotionRule, gain: float, items: int, plan: Continuation) -> Power:
    level, critical_wins = lowest_level(rule, plan), _CRITICAL_WINS[rule.test]
    discordance = max(rule.discordance, gain)
    return Power(
        gain=gain,
        power=paired_power(items, gain, discordance, level, critical_wins) if items else 0.0,
        items=minimum_items(gain, discordance, level, rule.power, critical_wins),
    )


def judge(
    evaluations: pl.DataFrame,
    rule: PromotionRule,
    skill_weights: Mapping[str, float],
    plan: Continuation,
    round_number: int,
    line: Sequence[PastTest] = (),
    monitors: Sequence[Reading] = (),
) -> Verdict:
    """The verdict on a candidate.

    It is promoted if the paired test is significant at this round's share of alpha, its accuracy on the
    campaign's mix rose, every guard skill holds and no alarm sounds that rejects. The test is the exact
    McNemar test where all scores are 0 or 1, where every item counts alike; otherwise a sign-flip
    permutation of the differences, weighted as the mix weighs them; or, for `rule.test: e_value`, an
    e-value in which every item counts alike. The same rows give the same verdict in any order.

    A guard skill holds if its interval is not wholly below 0; the intervals hold together (Bonferroni). With
    `rule.guard_margin` it holds if the test of non-inferiority is significant at `rule.guard_alpha`. No
    correction is needed for these: a candidate that fell by the margin in any skill must pass the test of
    that very skill (intersection-union test, Berger 1982, doi:10.1080/00401706.1982.10487790).

    Args:
        evaluations: rows of `records.EVALUATIONS` with the arms incumbent and candidate.
        rule: the promotion rule.
        skill_weights: the campaign's mix, skill to positive weight.
        plan: the campaign's continuation, over which alpha is spent.
        round_number: this round, counted from 0.
        line: the ancestors of the round, with the levels of their tests.
        monitors: what the monitors say of the round.

    Raises:
        SelfimpError: the arms cannot be compared, no item is under test, or a skill has no positive weight.
        ValueError: the round number is negative.
    """
    alpha = level_of_round(rule.alpha, plan.rounds, plan.patience, round_number, line)
    pairs = pair_arms(evaluations)
    # An item that a small family puts into both suites is one observation, not two.
    tested = pairs.filter(pl.col("suite").is_in(rule.suites)).unique(
        "item_id", keep="first", maintain_order=True
    )
    if tested.is_empty():
        raise SelfimpError(
            f"no item of the suites {', '.join(rule.suites)} was measured",
            where="evaluations",
            fix="give the campaign items in the suites that promotion.suites names",
        )
    wins, losses, ties = paired_counts(tested)
    weights = item_weights(tested["skill"].to_list(), skill_weights)
    differences = (tested["after"] - tested["before"]).to_numpy()
    gain = float(differences @ weights)
    test: Literal["exact McNemar", "sign-flip permutation", "e-value"]
    if tested.select(pl.all_horizontal(pl.col("before", "after").is_in([0.0, 1.0]).all())).item():
        test, p_value = "exact McNemar", mcnemar_exact(wins, losses)
        interval = paired_difference_interval(differences, _CONFIDENCE, weights)
    else:
        seed = derive_seed("judge", tested["item_id"].to_list())
        weighted = differences * weights * tested.height  # its plain mean is the gain on the mix
        test, p_value = "sign-flip permutation", sign_flip_permutation(weighted, seed)
        interval = paired_bootstrap(weighted, _CONFIDENCE, seed)
    if rule.test == "e_value":
        test, p_value = "e-value", e_value_p(differences)

    guards = _guard_results(pairs.filter(pl.col("suite") == "guard"), rule)
    alarms = [reading for reading in monitors if reading.is_alarm]
    obstacles: list[str] = []
    if policy_of(evaluations, "incumbent") == policy_of(evaluations, "candidate"):
        obstacles.append("the candidate has the same weights as the incumbent.")
    counts = f"{wins} items won, {losses} lost of {tested.height}"
    if plan.rounds is not None and round_number >= plan.rounds:
        obstacles.append(f"{counts}, but round {round_number} lies beyond the {plan.rounds} planned rounds.")
    elif alpha == 0:
        obstacles.append(f"{counts}, but the rounds before have spent all of alpha {rule.alpha:g}.")
    elif p_value > alpha:
        obstacles.append(f"{counts} (p = {p_value:.2g} > {alpha:.3g}).")
    if p_value <= alpha and gain <= 0:
        obstacles.append(f"{counts}, but accuracy on the campaign's mix did not rise (gain {gain:.3f}).")
    obstacles += [_guard_obstacle(guard, rule) for guard in guards if guard.regressed]
    obstacles += [f"alarm of {told(alarm)}" for alarm in alarms if alarm.follows != "warn"]
    return Verdict(
        promoted=not obstacles,
        test=test,
        p_value=p_value,
        alpha=alpha,
        wins=wins,
        losses=losses,
        ties=ties,
        n=tested.height,
        gain=gain,
        gain_low=interval.low,
        gain_high=interval.high,
        reasons=tuple(f"Rejected: {obstacle}" for obstacle in obstacles)
        or (f"Promoted: {counts} (p = {p_value:.2g} <= {alpha:.3g}).",),
        guards=guards,
        alarms=tuple(told(alarm) for alarm in alarms if alarm.follows == "stop"),
        raised=tuple(alarm.monitor for alarm in alarms),
    )


def told(alarm: Reading) -> str:
    """An alarm as it stands in reasons: the name of its monitor, and what it says."""
    return f"{alarm.monitor}: {alarm.sentence}"


def _guard_results(pairs: pl.DataFrame, rule: PromotionRule) -> tuple[GuardResult, ...]:
    """Each guard skill, its interval at a confidence that holds for all of them together (Bonferroni)."""
    groups = pairs.sort("skill", "item_id").partition_by("skill")
    confidence = 1 - rule.guard_alpha / max(1, len(groups))
    return tuple(_guard_result(group, rule, confidence) for group in groups)


def _guard_result(pairs: pl.DataFrame, rule: PromotionRule, confidence: float) -> GuardResult:
    before, after = pairs["before"].to_numpy(), pairs["after"].to_numpy()
    differences = after - before
    interval = paired_difference_interval(differences, confidence)
    p_value = None
    if rule.guard_margin is not None:
        won, lost = differences.clip(min=0).sum(), -differences.clip(max=0).sum()
        p_value = float(non_inferiority(won, lost, pairs.height, rule.guard_margin))
    return GuardResult(
        skill=pairs["skill"][0],
        incumbent=float(np.mean(before)),
        candidate=float(np.mean(after)),
        difference=float(np.mean(differences)),
        low=interval.low,
        high=interval.high,
        n=pairs.height,
        regressed=interval.high < 0 if p_value is None else p_value > rule.guard_alpha,
        p_value=p_value,
    )


def _guard_obstacle(guard: GuardResult, rule: PromotionRule) -> str:
    if guard.p_value is None:
        return (
            f"guard skill {guard.skill} fell from {guard.incumbent:.2f} to {guard.candidate:.2f} "
            f"(difference {guard.difference:.2f}, interval {guard.low:.2f} to {guard.high:.2f})."
        )
    return (
        f"guard skill {guard.skill} went from {guard.incumbent:.2f} to {guard.candidate:.2f}, and a fall by "
        f"{rule.guard_margin:g} is not excluded (p = {guard.p_value:.2g} > {rule.guard_alpha:g})."
    )
