from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.continuation import Continuation
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Follows, Reading
from selfimp_dagster.lifecycle.evaluation.promotion import (
    PromotionRule,
    Verdict,
    check_guard,
    check_power,
    judge,
    lowest_level,
    power_table,
)
from selfimp_dagster.lifecycle.evaluation.statistics import (
    PastTest,
    e_value_critical_wins,
    e_value_p,
    mcnemar_exact,
    minimum_guard_items,
    minimum_items,
    non_inferiority,
    non_inferiority_power,
    paired_difference_interval,
    paired_power,
)

MakeRows = Callable[..., pl.DataFrame]

MIX = {"sums": 1.0}
RULE = PromotionRule()
PLAN = Continuation(rounds=8, patience=8)
ONE_ROUND = Continuation(rounds=1)
OPEN = Continuation(rounds=None)

binary = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40
)
graded = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def verdict_on(rows: pl.DataFrame, **changes: Any) -> Verdict:
    arguments: dict[str, Any] = {"rule": RULE, "skill_weights": MIX, "plan": PLAN, "round_number": 0}
    return judge(rows, **(arguments | changes))


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
    assert verdict_on(rows, plan=ONE_ROUND).promoted


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


@pytest.mark.parametrize(
    ("follows", "promoted", "hard"),
    [("warn", True, False), ("reject", False, False), ("stop", False, True), ("quarantine", False, False)],
)
def test_an_alarm_does_what_follows_from_it(
    make_rows: MakeRows, follows: Follows, promoted: bool, hard: bool
) -> None:
    rows = make_rows(*outcomes(61, 12, 300))
    readings = [
        Reading(monitor="leakage", state="alarm", follows=follows, sentence="Items are known."),
        Reading(monitor="collapse", state="quiet", follows="reject", sentence="It is as it was."),
        Reading(monitor="budget", state="not measured", follows="warn", sentence="Nothing was."),
    ]
    verdict = verdict_on(rows, monitors=readings)
    assert verdict.promoted == promoted
    assert verdict.raised == ("leakage",)
    assert verdict.alarms == (("leakage: Items are known.",) if hard else ())
    assert ("Rejected: alarm of leakage: Items are known." in verdict.reasons) != promoted


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
    ways = [verdict_on(make_rows(*arms), plan=ONE_ROUND) for arms in ((before, after), (after, before))]
    assert not (ways[0].promoted and ways[1].promoted)
    assert ways[0].gain == pytest.approx(-ways[1].gain)
    assert all(0 < way.p_value <= 1 for way in ways)


def test_without_items_under_test_there_is_no_verdict(make_rows: MakeRows) -> None:
    with pytest.raises(SelfimpError, match="anchor, fresh"):
        verdict_on(make_rows([0], [1], suite="guard"))


def test_a_campaign_that_cannot_see_its_gain_is_refused() -> None:
    rule = PromotionRule(minimum_gain=0.1)
    assert check_power(rule, 300, PLAN) == paired_power(300, 0.1, 0.2, 0.05 / 8)
    with pytest.raises(SelfimpError, match=r"disagree on a share of 0\.2 .*\n.*at least 229 items"):
        check_power(rule, 200, PLAN)
    with pytest.raises(SelfimpError, match="0 evaluation items"):
        check_power(rule, 0, PLAN)
    check_power(PromotionRule(minimum_gain=0.4), 60, PLAN)  # more gain than the assumed discordance


@pytest.mark.parametrize("plan", [PLAN, ONE_ROUND, OPEN, Continuation(rounds=8, patience=3)])
@pytest.mark.parametrize("test", ["p_value", "e_value"])
def test_the_items_that_a_refusal_asks_for_are_enough_and_no_more(plan: Continuation, test: str) -> None:
    rule = PromotionRule(minimum_gain=0.15, test=test)  # type: ignore[arg-type]
    [needed] = [row.items for row in power_table(rule, 100, plan) if row.gain == 0.15]
    assert check_power(rule, needed, plan) >= 0.8
    with pytest.raises(SelfimpError, match=f"at least {needed} items in anchor and fresh together"):
        check_power(rule, needed - 1, plan)


def test_the_table_of_powers_is_that_of_the_check() -> None:
    rule = PromotionRule(minimum_gain=0.1, test="e_value")
    rows = power_table(rule, 300, PLAN)
    assert [row.gain for row in rows] == [0.03, 0.05, 0.08, 0.1, 0.12, 0.2]
    assert [row.power for row in rows] == sorted(row.power for row in rows)
    assert rows[3].power == paired_power(300, 0.1, 0.2, 0.05 / 8, e_value_critical_wins)
    assert rows[3].items == minimum_items(0.1, 0.2, 0.05 / 8, 0.8, e_value_critical_wins)


def test_power_is_promised_for_every_round_before_a_first_promotion() -> None:
    plan = Continuation(rounds=8, patience=3)
    assert lowest_level(RULE, plan) == pytest.approx(0.05 / 3 * (2 / 3) ** 2)
    assert lowest_level(RULE, OPEN) == pytest.approx(0.05 / 3 * (2 / 3) ** 2)
    assert lowest_level(RULE, PLAN) == pytest.approx(0.05 / 8)
    assert lowest_level(RULE, Continuation(rounds=None, patience=1)) == 0.05


def test_a_round_has_what_the_rejected_rounds_of_its_line_left(make_rows: MakeRows) -> None:
    rows = make_rows(*outcomes(35, 17, 300))  # p = 0.0088
    rejected, promoted = PastTest(0, 0.05 / 8, False), PastTest(0, 0.05 / 8, True)
    assert verdict_on(rows, round_number=1, line=[rejected]).alpha == pytest.approx(0.05 / 8)
    assert verdict_on(rows, round_number=1, line=[promoted]).alpha == pytest.approx(0.05 / 7)
    assert not verdict_on(rows, round_number=1, line=[promoted]).promoted
    line = [PastTest(number, 0.05 / 8, True) for number in range(3)]
    assert verdict_on(rows, round_number=3, line=line).promoted


def test_an_open_ended_campaign_tests_as_long_as_it_likes(make_rows: MakeRows) -> None:
    rows = make_rows(*outcomes(61, 12, 300))
    assert verdict_on(rows, plan=OPEN).alpha == pytest.approx(0.05 / 3)
    late = verdict_on(rows, plan=OPEN, round_number=20)
    assert late.promoted
    assert late.alpha == pytest.approx(0.05 / 3 * (2 / 3) ** 20)


def test_a_campaign_that_has_spent_its_error_promotes_nothing(make_rows: MakeRows) -> None:
    plan = Continuation(rounds=None, patience=1)
    verdict = verdict_on(
        make_rows(*outcomes(61, 12, 300)), plan=plan, round_number=1, line=[PastTest(0, 0.05, False)]
    )
    assert verdict.reasons == (
        "Rejected: 61 items won, 12 lost of 300, but the rounds before have spent all of alpha 0.05.",
    )


def test_an_e_value_promotes_on_clearer_evidence(make_rows: MakeRows) -> None:
    rule = PromotionRule(test="e_value")
    differences = [1.0] * 61 + [-1.0] * 12 + [0.0] * 227
    verdict = verdict_on(make_rows(*outcomes(61, 12, 300)), rule=rule)
    assert verdict.promoted
    assert (verdict.test, verdict.p_value) == ("e-value", e_value_p(differences))
    narrow = make_rows(*outcomes(45, 20, 300))  # p = 0.0013
    assert verdict_on(narrow).promoted
    assert not verdict_on(narrow, rule=rule).promoted
    graded = verdict_on(make_rows([0.2] * 60, [0.7] * 60), rule=rule)
    assert (graded.test, graded.promoted) == ("e-value", True)


MARGIN = PromotionRule(guard_margin=0.1)


def test_with_a_margin_a_guard_skill_must_be_shown_to_hold(make_rows: MakeRows) -> None:
    rows = pl.concat(
        [
            make_rows(*outcomes(61, 12, 300)),
            make_rows(*outcomes(2, 8, 100), suite="guard", skill="letters"),
            make_rows(*outcomes(1, 4, 100), suite="guard", skill="words"),
        ]
    )
    assert verdict_on(rows).promoted  # neither fall is proven
    verdict = verdict_on(rows, rule=MARGIN)
    assert verdict.reasons == (
        "Rejected: guard skill letters went from 0.98 to 0.92, and a fall by 0.1 is not excluded "
        "(p = 0.12 > 0.05).",
    )
    assert [(guard.skill, guard.regressed) for guard in verdict.guards] == [
        ("letters", True),
        ("words", False),
    ]
    assert [guard.p_value for guard in verdict.guards] == pytest.approx(
        [float(non_inferiority(2, 8, 100, 0.1)), float(non_inferiority(1, 4, 100, 0.1))]
    )


def test_a_fall_within_the_margin_is_none(make_rows: MakeRows) -> None:
    rows = pl.concat(
        [
            make_rows(*outcomes(61, 12, 300)),
            make_rows(*outcomes(0, 12, 500), suite="guard", skill="words"),
        ]
    )
    assert not verdict_on(rows).promoted
    assert verdict_on(rows, rule=MARGIN).promoted


def test_a_guard_that_cannot_exclude_its_margin_is_refused() -> None:
    assert check_guard(RULE, {"words": 3}) == 1
    assert check_guard(MARGIN, {}) == 1
    assert check_guard(MARGIN, {"words": 200}) == non_inferiority_power(200, 0.1, 0.2, 0.05)
    needed = minimum_guard_items(0.1, 0.2, 0.05, 0.8**0.5)
    assert check_guard(MARGIN, {"words": needed, "letters": needed}) >= 0.8
    with pytest.raises(
        SelfimpError, match=rf"items of words, letters do not exclude.*\n.*at least {needed} items"
    ):
        check_guard(MARGIN, {"words": needed, "letters": 40})
    with pytest.raises(SelfimpError, match=r"with probability 0\.00"):
        check_guard(MARGIN, {"words": 0})


CAMPAIGNS, ROUNDS, ITEMS = 100, 8, 60


def false_promotions(make_rows: MakeRows, rule: PromotionRule, plan: Continuation, *, holds: bool) -> int:
    """Campaigns with a promotion although every candidate is exactly as good as its incumbent.

    Half of the items are fixed, half are drawn each round. Unless the plan `holds`, every round is tested as
    if it were the first.
    """
    rng = np.random.default_rng(7)
    half = ITEMS // 2

    def answers(chances: np.ndarray) -> np.ndarray:
        return (rng.random(half) < chances).astype(float)

    promoted = 0
    for _ in range(CAMPAIGNS):
        anchor_chances = rng.beta(0.7, 1.0, half)  # some items are nearly always right, more are wrong
        incumbent, line = answers(anchor_chances), []
        for number in range(ROUNDS):
            fresh_chances, candidate = rng.beta(0.7, 1.0, half), answers(anchor_chances)
            rows = make_rows([*incumbent, *answers(fresh_chances)], [*candidate, *answers(fresh_chances)])
            verdict = judge(rows, rule, MIX, plan, number if holds else 0, line if holds else ())
            line.append(PastTest(number, verdict.alpha, verdict.promoted))
            if verdict.promoted:
                promoted += 1
                break
    return promoted


@pytest.mark.parametrize(
    ("plan", "test"), [(Continuation(rounds=ROUNDS), "p_value"), (Continuation(rounds=None), "e_value")]
)
def test_noise_is_promoted_in_at_most_alpha_of_the_campaigns(
    make_rows: MakeRows, plan: Continuation, test: str
) -> None:
    rule = PromotionRule(test=test)  # type: ignore[arg-type]
    tolerated = binom.isf(0.001, CAMPAIGNS, rule.alpha)
    assert false_promotions(make_rows, rule, plan, holds=True) <= tolerated


def test_the_same_campaigns_break_the_bound_where_every_round_spends_all_of_alpha(
    make_rows: MakeRows,
) -> None:
    tolerated = binom.isf(0.001, CAMPAIGNS, RULE.alpha)
    assert false_promotions(make_rows, RULE, ONE_ROUND, holds=False) > tolerated
