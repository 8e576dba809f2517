"""Promotion: the verdict that a candidate becomes the incumbent of the next round."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.scores import (
    item_weights,
    pair_arms,
    paired_counts,
    policy_of,
    suite_accuracy,
)
from selfimp_dagster.lifecycle.evaluation.statistics import (
    alpha_for_round,
    independent_difference_interval,
    mcnemar_exact,
    mcnemar_power,
    minimum_items,
    paired_bootstrap,
    paired_difference_interval,
    sign_flip_permutation,
)
from selfimp_dagster.records import derive_seed

_CONFIDENCE = 0.95  # of the reported gain; no decision hangs on it


class PromotionRule(BaseModel):
    """When a candidate is promoted, and how small a gain the campaign must be able to see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(
        default=0.05, gt=0, le=0.5, description="Chance of any false promotion in the whole campaign."
    )
    suites: tuple[Literal["anchor", "fresh"], ...] = Field(
        default=("anchor", "fresh"), min_length=1, description="Suites whose items enter the test."
    )
    guard_alpha: float = Field(
        default=0.05, gt=0, lt=1, description="Error of a round's guard intervals, over all guard skills."
    )
    leakage_gap: float = Field(
        default=0.0, ge=0, lt=1, description="Anchor minus fresh accuracy that raises no alarm."
    )
    leakage_alpha: float = Field(
        default=0.05, gt=0, le=0.5, description="Chance of any false leakage alarm in the whole campaign."
    )
    verifier_floor: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Precision and recall that the verifier must be able to have on the gold probe; below it "
        "a hard alarm sounds. 0 asks for nothing.",
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
    """One guard skill, measured on the same items by both arms. Accuracies are shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skill: str
    incumbent: float
    candidate: float
    difference: float  # candidate minus incumbent
    low: float
    high: float
    n: int
    regressed: bool


class Verdict(BaseModel):
    """The verdict on a candidate, with what it rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promoted: bool
    test: Literal["exact McNemar", "sign-flip permutation"]
    p_value: float
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


def check_power(rule: PromotionRule, items: int, planned_rounds: int) -> float:
    """The power of a round's test to see `rule.minimum_gain`, a probability.

    Args:
        rule: the promotion rule; if the gain exceeds its discordance, the gain is the discordance.
        items: items under test in a round, over `rule.suites`.
        planned_rounds: rounds over which alpha is spent.

    Raises:
        SelfimpError: the items are too few for that gain, with how many it takes.
    """
    alpha = alpha_for_round(rule.alpha, planned_rounds, 0)
    discordance = max(rule.discordance, rule.minimum_gain)
    power = mcnemar_power(items, rule.minimum_gain, discordance, alpha) if items else 0.0
    if power < rule.power:
        needed = minimum_items(rule.minimum_gain, discordance, alpha, rule.power)
        raise SelfimpError(
            f"{items} evaluation items detect a gain of {rule.minimum_gain:g} with probability {power:.2f}, "
            f"not {rule.power:g} (level {alpha:.2g} = {rule.alpha:g} / {planned_rounds} rounds, assuming "
            f"that the arms disagree on a share of {discordance:g} of the items)",
            where="promotion",
            fix=f"evaluate at least {needed} items in {' and '.join(rule.suites)} together, plan fewer "
            "rounds, or raise promotion.minimum_gain",
        )
    return power


def judge(
    evaluations: pl.DataFrame,
    rule: PromotionRule,
    skill_weights: Mapping[str, float],
    planned_rounds: int,
    round_number: int,
    alarms: Sequence[str] = (),
) -> Verdict:
    """The verdict on a candidate.

    It is promoted if the paired test is significant at this round's share of alpha, its accuracy on the
    campaign's mix rose, no guard skill fell beyond its interval and no hard alarm sounds. The test is the
    exact McNemar test where all scores are 0 or 1, where every item counts alike; otherwise a sign-flip
    permutation of the differences, weighted as the mix weighs them. The same rows give the same verdict
    in any order.

    Args:
        evaluations: rows of `records.EVALUATIONS` with the arms incumbent and candidate.
        rule: the promotion rule.
        skill_weights: the campaign's mix, skill to positive weight.
        planned_rounds: rounds over which alpha is spent.
        round_number: this round, counted from 0.
        alarms: hard alarms of other checks (contamination, safety, collapse), as sentences.

    Raises:
        SelfimpError: the arms cannot be compared, no item is under test, or a skill has no positive weight.
        ValueError: no round is planned, or the round number is negative.
    """
    alpha = alpha_for_round(rule.alpha, planned_rounds, round_number)
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
    test: Literal["exact McNemar", "sign-flip permutation"]
    if tested.select(pl.all_horizontal(pl.col("before", "after").is_in([0.0, 1.0]).all())).item():
        test, p_value = "exact McNemar", mcnemar_exact(wins, losses)
        interval = paired_difference_interval(differences, _CONFIDENCE, weights)
    else:
        seed = derive_seed("judge", tested["item_id"].to_list())
        weighted = differences * weights * tested.height  # its plain mean is the gain on the mix
        test, p_value = "sign-flip permutation", sign_flip_permutation(weighted, seed)
        interval = paired_bootstrap(weighted, _CONFIDENCE, seed)

    guards = _guard_results(pairs.filter(pl.col("suite") == "guard"), rule.guard_alpha)
    alarms = (*alarms, *_leakage_alarm(evaluations, rule, skill_weights, planned_rounds))
    obstacles: list[str] = []
    if policy_of(evaluations, "incumbent") == policy_of(evaluations, "candidate"):
        obstacles.append("the candidate has the same weights as the incumbent.")
    counts = f"{wins} items won, {losses} lost of {tested.height}"
    if alpha == 0:
        obstacles.append(
            f"{counts}, but round {round_number} lies beyond the {planned_rounds} planned rounds."
        )
    elif p_value > alpha:
        obstacles.append(f"{counts} (p = {p_value:.2g} > {alpha:.3g}).")
    if p_value <= alpha and gain <= 0:
        obstacles.append(f"{counts}, but accuracy on the campaign's mix did not rise (gain {gain:.3f}).")
    obstacles += [
        f"guard skill {guard.skill} fell from {guard.incumbent:.2f} to {guard.candidate:.2f} "
        f"(difference {guard.difference:.2f}, interval {guard.low:.2f} to {guard.high:.2f})."
        for guard in guards
        if guard.regressed
    ]
    obstacles += [f"hard alarm: {alarm}" for alarm in alarms]
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
        alarms=alarms,
    )


def _guard_results(pairs: pl.DataFrame, guard_alpha: float) -> tuple[GuardResult, ...]:
    """Each guard skill, its interval at a confidence that holds for all of them together (Bonferroni)."""
    groups = pairs.sort("skill", "item_id").partition_by("skill")
    confidence = 1 - guard_alpha / max(1, len(groups))
    return tuple(_guard_result(group, confidence) for group in groups)


def _guard_result(pairs: pl.DataFrame, confidence: float) -> GuardResult:
    before, after = pairs["before"].to_numpy(), pairs["after"].to_numpy()
    interval = paired_difference_interval(after - before, confidence)
    return GuardResult(
        skill=pairs["skill"][0],
        incumbent=float(np.mean(before)),
        candidate=float(np.mean(after)),
        difference=float(np.mean(after - before)),
        low=interval.low,
        high=interval.high,
        n=pairs.height,
        regressed=interval.high < 0,
    )


def _leakage_alarm(
    evaluations: pl.DataFrame, rule: PromotionRule, skill_weights: Mapping[str, float], planned_rounds: int
) -> tuple[str, ...]:
    """An alarm if the candidate knows the fixed items better than new ones of the same skills."""
    answers = evaluations.filter(pl.col("arm") == "candidate").sort("suite", "item_id")
    anchor, fresh = (answers.filter(pl.col("suite") == suite) for suite in ("anchor", "fresh"))
    shared = sorted(set(anchor["skill"]) & set(fresh["skill"]))
    if not shared:
        return ()
    # The alarm is one-sided: both tails of the interval would hold twice the error that it may spend.
    confidence = 1 - 2 * rule.leakage_alpha / planned_rounds
    known, new = (
        suite_accuracy(rows.filter(pl.col("skill").is_in(shared)), suite, skill_weights, confidence)
        for rows, suite in ((anchor, "anchor"), (fresh, "fresh"))
    )
    gap = independent_difference_interval(known, new)
    if gap.low <= rule.leakage_gap:
        return ()
    return (
        f"the candidate scores {known.value:.2f} on the anchor suite and {new.value:.2f} on fresh items of "
        f"the same skills (difference {known.value - new.value:.2f}, interval {gap.low:.2f} to "
        f"{gap.high:.2f}): anchor items may have leaked into its training.",
    )
