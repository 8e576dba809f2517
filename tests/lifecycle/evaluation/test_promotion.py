from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.promotion import PromotionRule, Verdict, check_power, judge
from selfimp_dagster.lifecycle.evaluation.statistics import (
    mcnemar_exact,
    mcnemar_power,
    paired_difference_interval,
)

MakeRows = Callable[..., pl.DataFrame]

MIX = {"sums": 1.0}
RULE = PromotionRule()

binary = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40
)
graded = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def verdict_on(rows: pl.DataFrame, **changes: Any) -> Verdict:
    arguments: dict[str, Any] = {"skill_weights": MIX, "planned_rounds": 8, "round_number": 0}
    return judge(rows, RULE, **(arguments | changes))


def outcomes(wins: int, losses: int, n: int) -> tuple[list[int], list[int]]:
    """Scores of both arms with so many items won and lost by the candidate."""
    return [0] * wins + [1] * losses + [1] * (n - wins - losses), [1] * wins + [0] * losses + [1] * (
        n - wins - losses
    )


def test_a_better_candidate_is_promoted(make_rows: MakeRows) -> None:
    verdict = verdict_on(make_rows(*outcomes(61, 12, 300)))
    assert verdict.promoted
    assert verdict.reasons == ("Promoted: 61 items won, 12 lost of 300 (p = 2.4e-09 <= 0.00625).",)
    assert (verdict.wins, verdict.losses, verdict.ties, verdict.n) == (61, 12, 227, 300)
    assert (verdict.test, verdict.p_value) == ("exact McNemar", mcnemar_exact(61, 12))
    assert verdict.gain == pytest.approx(49 / 300)
    interval = paired_difference_interval([1.0] * 61 + [-1.0] * 12 + [0.0] * 227)
    assert (verdict.gain_low, verdict.gain_high) == pytest.approx(interval)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_verdict_is_told_with_its_numbers(make_rows: MakeRows) -> None:
    told = verdict_on(make_rows(*outcomes(61, 12, 300))).sentence
    assert told == (
        "Promoted: 61 items won, 12 lost of 300 (p = 2.4e-09 <= 0.00625). Gain on the campaign's mix +0.163 "
        "(95 % interval +0.109 to +0.215); exact McNemar test, p = 2.4e-09 at level 0.00625, 227 items tied."
    )


def test_a_candidate_that_is_better_by_luck_is_not(make_rows: MakeRows) -> None:
    rows = make_rows(*outcomes(30, 17, 300))  # p = 0.039: enough for one round, not for one of eight
    verdict = verdict_on(rows)
    assert not verdict.promoted
    assert verdict.reasons == ("Rejected: 30 items won, 17 lost of 300 (p = 0.039 > 0.00625).",)
    assert verdict_on(rows, planned_rounds=1).promoted


def test_nothing_is_promoted_beyond_the_plan(make_rows: MakeRows) -> None:
    verdict = verdict_on(make_rows(*outcomes(100, 0, 100)), round_number=8)
    assert not verdict.promoted
    assert verdict.reasons == (
        "Rejected: 100 items won, 0 lost of 100, but round 8 lies beyond the 8 planned rounds.",
    )


def test_a_guard_that_fell_rejects(make_rows: MakeRows) -> None:
    rows = pl.concat(
        [
            make_rows(*outcomes(61, 12, 300)),
            make_rows(*outcomes(2, 13, 100), suite="guard", skill="letter_counting"),
            make_rows(*outcomes(1, 4, 100), suite="guard", skill="words"),
        ]
    )
    verdict = verdict_on(rows)
    assert not verdict.promoted
    assert verdict.reasons == (
        "Rejected: guard skill letter_counting fell from 0.98 to 0.87 "
        "(difference -0.11, interval -0.20 to -0.02).",
    )
    assert [(guard.skill, guard.n, guard.regressed) for guard in verdict.guards] == [
        ("letter_counting", 100, True),
        ("words", 100, False),
    ]
    letters = verdict.guards[0]
    interval = paired_difference_interval([1.0] * 2 + [-1.0] * 13 + [0.0] * 85, confidence=0.975)
    assert (letters.low, letters.high) == pytest.approx(interval)


def test_guard_items_do_not_enter_the_test(make_rows: MakeRows) -> None:
    rows = pl.concat(
        [make_rows([0] * 5, [0] * 5), make_rows([0] * 90, [1] * 90, suite="guard", skill="words")]
    )
    assert verdict_on(rows).n == 5


def test_a_hard_alarm_rejects(make_rows: MakeRows) -> None:
    verdict = verdict_on(make_rows(*outcomes(61, 12, 300)), alarms=["the safety probe failed."])
    assert not verdict.promoted
    assert verdict.reasons == ("Rejected: hard alarm: the safety probe failed.",)
    assert verdict.alarms == ("the safety probe failed.",)


def test_a_candidate_that_knows_the_anchor_items_raises_an_alarm(make_rows: MakeRows) -> None:
    fresh = make_rows([0] * 60 + [1] * 40, [0] * 60 + [1] * 40, suite="fresh")
    leaked = verdict_on(pl.concat([fresh, make_rows([0] * 60 + [1] * 40, [1] * 80 + [0] * 20)]))
    assert not leaked.promoted
    assert leaked.p_value <= leaked.alpha
    assert leaked.alarms[0].startswith(
        "the candidate scores 0.80 on the anchor suite and 0.40 on fresh items of the same skills"
    )
    honest = verdict_on(pl.concat([fresh, make_rows([0] * 60 + [1] * 40, [1] * 50 + [0] * 50)]))
    assert not honest.alarms


def test_leakage_is_compared_on_the_skills_that_both_suites_hold(make_rows: MakeRows) -> None:
    rows = pl.concat(
        [
            make_rows([0] * 100, [0] * 100, suite="fresh", skill="hard"),
            make_rows([0] * 100, [0] * 100, skill="hard"),
            make_rows([1] * 100, [1] * 100, skill="easy"),
        ]
    )
    assert not verdict_on(rows, skill_weights={"hard": 1, "easy": 1}).alarms


def test_the_same_weights_are_never_promoted(make_rows: MakeRows) -> None:
    rows = make_rows(*outcomes(61, 12, 300)).with_columns(pl.lit("one").alias("policy_hash"))
    verdict = verdict_on(rows)
    assert not verdict.promoted
    assert verdict.reasons == ("Rejected: the candidate has the same weights as the incumbent.",)


def test_a_gain_must_be_one_on_the_campaigns_mix(make_rows: MakeRows) -> None:
    rows = pl.concat([make_rows([0] * 50, [1] * 50), make_rows([1] * 10, [0] * 10, skill="gcd")])
    verdict = verdict_on(rows, skill_weights={"sums": 1, "gcd": 2})
    assert verdict.p_value <= verdict.alpha
    assert verdict.gain == pytest.approx(-1 / 3)
    assert verdict.reasons == (
        "Rejected: 50 items won, 10 lost of 60, "
        "but accuracy on the campaign's mix did not rise (gain -0.333).",
    )


def test_an_item_in_both_suites_counts_once(make_rows: MakeRows) -> None:
    rows = make_rows([0, 0, 1], [1, 1, 1])
    assert verdict_on(pl.concat([rows, rows.with_columns(pl.lit("fresh").alias("suite"))])).n == 3


def test_graded_scores_are_permuted(make_rows: MakeRows) -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0, 0.8, 60)
    better, same = before + rng.uniform(-0.05, 0.2, 60).clip(-before), before + rng.uniform(-0.1, 0.1, 60)
    verdict = verdict_on(make_rows(before, better))
    assert verdict.promoted
    assert verdict.test == "sign-flip permutation"
    assert 0 < verdict.gain_low < verdict.gain < verdict.gain_high
    assert not verdict_on(make_rows(before, same.clip(0, 1))).promoted


@given(pairs=st.one_of(binary, graded), seed=st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(
    make_rows: MakeRows, pairs: list[tuple[float, float]], seed: int
) -> None:
    rows = make_rows(*zip(*pairs, strict=True))
    assert verdict_on(rows.sample(fraction=1, shuffle=True, seed=seed)) == verdict_on(rows)


@given(pairs=st.one_of(binary, graded))
def test_of_two_policies_at_most_one_is_promoted_over_the_other(
    make_rows: MakeRows, pairs: list[tuple[float, float]]
) -> None:
    before, after = zip(*pairs, strict=True)
    ways = [verdict_on(make_rows(*arms), planned_rounds=1) for arms in ((before, after), (after, before))]
    assert not (ways[0].promoted and ways[1].promoted)
    assert ways[0].gain == pytest.approx(-ways[1].gain)
    assert all(0 < way.p_value <= 1 for way in ways)


def test_without_items_under_test_there_is_no_verdict(make_rows: MakeRows) -> None:
    with pytest.raises(SelfimpError, match="anchor, fresh"):
        verdict_on(make_rows([0], [1], suite="guard"))


def test_a_campaign_that_cannot_see_its_gain_is_refused() -> None:
    rule = PromotionRule(minimum_gain=0.1)
    assert check_power(rule, 300, planned_rounds=8) == mcnemar_power(300, 0.1, 0.2, 0.05 / 8)
    with pytest.raises(SelfimpError, match=r"disagree on a share of 0\.2 .*\n.*at least 229 items"):
        check_power(rule, 200, planned_rounds=8)
    with pytest.raises(SelfimpError, match="0 evaluation items"):
        check_power(rule, 0, planned_rounds=8)
    check_power(
        PromotionRule(minimum_gain=0.4), 60, planned_rounds=8
    )  # more gain than the assumed discordance


CAMPAIGNS, ROUNDS, ITEMS = 100, 8, 60


def false_promotions(make_rows: MakeRows, planned_rounds: int) -> int:
    """Campaigns with a promotion although every candidate is exactly as good as its incumbent.

    Half of the items are fixed, half are drawn each round; a promoted candidate is the next incumbent.
    """
    rng = np.random.default_rng(7)
    half = ITEMS // 2

    def answers(chances: np.ndarray) -> np.ndarray:
        return (rng.random(half) < chances).astype(float)

    promoted = 0
    for _ in range(CAMPAIGNS):
        anchor_chances = rng.beta(0.7, 1.0, half)  # some items are nearly always right, more are wrong
        incumbent = answers(anchor_chances)
        for _ in range(ROUNDS):
            fresh_chances, candidate = rng.beta(0.7, 1.0, half), answers(anchor_chances)
            rows = make_rows([*incumbent, *answers(fresh_chances)], [*candidate, *answers(fresh_chances)])
            if judge(rows, RULE, MIX, planned_rounds, round_number=0).promoted:
                promoted += 1
                break
    return promoted


def test_noise_is_promoted_in_at_most_alpha_of_the_campaigns(make_rows: MakeRows) -> None:
    tolerated = binom.isf(0.001, CAMPAIGNS, RULE.alpha)
    assert false_promotions(make_rows, planned_rounds=ROUNDS) <= tolerated
    # The same campaigns break the bound where every round spends the whole alpha.
    assert false_promotions(make_rows, planned_rounds=1) > tolerated
