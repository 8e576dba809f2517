from itertools import combinations, product
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    alpha_for_round,
    effective_items,
    expected_distinct,
    independent_difference_interval,
    mcnemar_critical_wins,
    mcnemar_exact,
    mcnemar_power,
    mean_interval,
    minimum_items,
    paired_bootstrap,
    paired_difference_interval,
    pass_at_k,
    ratio_interval,
    sign_flip_permutation,
    weighted_accuracy,
    wilson,
)

counts = st.integers(min_value=0, max_value=200)


def binomial_tail(wins: int, losses: int) -> float:
    n = wins + losses
    return sum(comb(n, k) for k in range(wins, n + 1)) / 2**n


def test_mcnemar_of_ten_wins_and_two_losses() -> None:
    assert mcnemar_exact(10, 2) == pytest.approx(79 / 4096)  # (66 + 12 + 1) / 2^12


@given(wins=counts, losses=counts)
def test_mcnemar_is_the_tail_of_a_fair_coin(wins: int, losses: int) -> None:
    assert mcnemar_exact(wins, losses) == pytest.approx(binomial_tail(wins, losses))


@given(wins=counts, losses=counts)
def test_mcnemar_falls_with_wins_and_rises_with_losses(wins: int, losses: int) -> None:
    p = mcnemar_exact(wins, losses)
    assert 0 < p <= 1
    assert mcnemar_exact(wins + 1, losses) <= p <= mcnemar_exact(wins, losses + 1)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="3 wins"):
        mcnemar_exact(3, -1)


@given(st.lists(st.integers(-8, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=8))
def test_sign_flips_of_few_items_are_enumerated(differences: list[float]) -> None:
    changed = [d for d in differences if d]
    flips = product((-1, 1), repeat=len(changed))
    sums = [sum(s * d for s, d in zip(signs, changed, strict=True)) for signs in flips]
    expected = sum(total >= sum(changed) for total in sums) / len(sums)
    assert sign_flip_permutation(differences, seed=0) == pytest.approx(expected)


def test_sign_flips_of_many_items_agree_with_the_exact_test() -> None:
    p = sign_flip_permutation([1.0] * 40 + [-1.0] * 20 + [0.0] * 100, seed=1)
    exact = binomial_tail(40, 20)
    assert abs(p - exact) < 4 * sqrt(exact / 20_000)
    assert p == sign_flip_permutation([1.0] * 40 + [-1.0] * 20 + [0.0] * 100, seed=1)


def test_sign_flips_never_give_a_p_value_of_zero() -> None:
    assert sign_flip_permutation([0.5] * 200, seed=0) == pytest.approx(1 / 20_000)


def test_sign_flips_refuse_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        sign_flip_permutation([0.5, float("nan")], seed=0)


def test_wilson_of_eight_in_ten() -> None:
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)


@given(successes=st.integers(1, 99), confidence=st.sampled_from([0.8, 0.95, 0.999]))
def test_wilson_ends_are_the_shares_that_the_score_test_just_keeps(successes: int, confidence: float) -> None:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    for end in wilson(successes, 100, confidence):
        assert abs(successes / 100 - end) / sqrt(end * (1 - end) / 100) == pytest.approx(z, rel=1e-6)


@given(n=st.floats(0.5, 1000), share=st.floats(0, 1))
def test_wilson_holds_the_share_and_stays_in_bounds(n: float, share: float) -> None:
    low, high = wilson(share * n, n)
    assert 0 <= low <= share * n / n <= high <= 1


def test_wilson_without_items_is_everything() -> None:
    assert wilson(0, 0) == (0, 1)


def test_wilson_refuses_more_successes_than_items() -> None:
    with pytest.raises(ValueError, match="11 successes of 10"):
        wilson(11, 10)


@given(right=st.integers(0, 40), wrong=st.integers(1, 40), weight=st.floats(0.01, 100))
def test_equal_weights_give_plain_accuracy_and_wilson(right: int, wrong: int, weight: float) -> None:
    n = right + wrong
    estimate = weighted_accuracy([1.0] * right + [0.0] * wrong, [weight] * n)
    assert estimate == pytest.approx((right / n, *wilson(right, n), n))


def test_weights_move_the_value_and_widen_the_interval() -> None:
    scores, weights = [1.0] * 50 + [0.0] * 50, [9.0] * 50 + [1.0] * 50
    value, low, high, n = weighted_accuracy(scores, weights)
    assert (value, n) == (pytest.approx(0.9), 100)
    assert effective_items(weights) == pytest.approx(500**2 / (50 * 81 + 50))
    assert (low, high) == pytest.approx(wilson(0.9 * 500**2 / 4100, 500**2 / 4100))


def test_weighted_accuracy_refuses_scores_beyond_one_and_weights_of_zero() -> None:
    with pytest.raises(ValueError, match="scores must"):
        weighted_accuracy([1.0, 2.0], [1, 1])
    with pytest.raises(ValueError, match="weights must"):
        weighted_accuracy([1.0, 0.0], [1, 0])
    with pytest.raises(ValueError, match="weights must"):
        weighted_accuracy([1.0, 0.0], [1])


def test_paired_interval_is_that_of_bonett_and_price() -> None:
    wins, losses, n = 3, 10, 50
    p12, p21, z = (wins + 1) / (n + 2), (losses + 1) / (n + 2), 1.959964
    half = z * sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    differences = [1.0] * wins + [-1.0] * losses + [0.0] * (n - wins - losses)
    expected = (p12 - p21 - half, p12 - p21 + half)
    assert paired_difference_interval(differences) == pytest.approx(expected, abs=1e-6)
    assert paired_difference_interval(differences, weights=[7.0] * n) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_paired_interval_holds_the_mean_and_mirrors(differences: list[float]) -> None:
    low, high = paired_difference_interval(differences)
    assert -1 <= low <= np.mean(differences) + 1e-12
    assert np.mean(differences) - 1e-12 <= high <= 1
    assert paired_difference_interval([-d for d in differences]) == pytest.approx((-high, -low))


def test_one_lost_item_proves_nothing() -> None:
    assert paired_difference_interval([-1.0]).high > 0


def test_bootstrap_agrees_with_the_standard_error() -> None:
    differences = np.random.default_rng(0).normal(0.1, 0.3, 400).clip(-1, 1)
    half = 1.96 * differences.std(ddof=1) / 20
    low, high = paired_bootstrap(differences, 0.95, seed=0)
    assert (low, high) == pytest.approx(
        (differences.mean() - half, differences.mean() + half), abs=0.1 * half
    )
    assert (low, high) == paired_bootstrap(differences, 0.95, seed=0)


def test_bootstrap_of_equal_differences_has_no_width() -> None:
    assert paired_bootstrap([0.5] * 3, 0.95, seed=0) == (0.5, 0.5)


def test_independent_interval_is_newcombes_published_one() -> None:
    # 56/70 against 48/80, table II (a) of Newcombe 1998: method 10 gives 0.0524 to 0.3339.
    first, second = (Estimate(k / n, *wilson(k, n), n) for k, n in ((56, 70), (48, 80)))
    assert independent_difference_interval(first, second) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(alpha=st.floats(0.001, 0.5), planned=st.integers(1, 60))
def test_alpha_is_spent_within_the_plan_and_never_beyond(alpha: float, planned: int) -> None:
    spent = [alpha_for_round(alpha, planned, number) for number in range(planned + 5)]
    assert sum(spent) == pytest.approx(alpha)
    assert spent[planned:] == [0.0] * 5


@pytest.mark.parametrize("arguments", [(0.0, 8, 0), (0.05, 0, 0), (0.05, 8, -1)])
def test_alpha_refuses_nonsense(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="planned rounds"):
        alpha_for_round(*arguments)


@given(discordant=st.integers(0, 120), alpha=st.sampled_from([0.05, 0.00625, 1 / 32, 0.001]))
def test_critical_wins_are_where_the_test_starts_to_reject(discordant: int, alpha: float) -> None:
    critical = int(mcnemar_critical_wins(discordant, alpha))
    assert critical > discordant or binomial_tail(critical, discordant - critical) <= alpha
    assert binomial_tail(critical - 1, discordant - critical + 1) > alpha


def test_power_is_the_sum_over_all_outcomes() -> None:
    n, gain, discordance, alpha = 25, 0.2, 0.4, 0.05
    win, loss = (discordance + gain) / 2, (discordance - gain) / 2
    expected = sum(
        comb(n, w) * comb(n - w, s) * win**w * loss**s * (1 - win - loss) ** (n - w - s)
        for w in range(n + 1)
        for s in range(n - w + 1)
        if binomial_tail(w, s) <= alpha
    )
    assert mcnemar_power(n, gain, discordance, alpha) == pytest.approx(expected)


def test_power_at_no_gain_is_at_most_alpha() -> None:
    assert mcnemar_power(300, 0.0, 0.2, 0.05) <= 0.05


def test_power_refuses_a_gain_above_the_discordance() -> None:
    with pytest.raises(ValueError, match="discordance"):
        mcnemar_power(100, 0.3, 0.2, 0.05)


@pytest.mark.parametrize(
    ("gain", "discordance", "alpha", "power"),
    [(0.1, 0.2, 0.01, 0.8), (0.5, 1.0, 0.05, 0.9), (0.1, 0.1, 0.05, 0.1), (0.3, 1.0, 0.01, 0.9)],
)
def test_minimum_items_is_the_first_that_suffices(
    gain: float, discordance: float, alpha: float, power: float
) -> None:
    first = next(n for n in range(1, 1000) if mcnemar_power(n, gain, discordance, alpha) >= power)
    assert minimum_items(gain, discordance, alpha, power) == first


def test_minimum_items_refuses_no_gain() -> None:
    with pytest.raises(ValueError, match="gain 0"):
        minimum_items(0.0, 0.2, 0.05, 0.8)


def test_pass_at_k_of_published_and_hand_computed_examples() -> None:
    # The example of the code_eval metric (HumanEval's): one of two candidates passes.
    assert (pass_at_k(2, 1, 1), pass_at_k(2, 1, 2)) == (0.5, 1.0)
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)
    assert pass_at_k(10, 0, 10) == 0.0


@given(n=st.integers(1, 30), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    values = [pass_at_k(n, right, k) for k in range(1, n + 1)]
    assert values[0] == pytest.approx(right / n)
    assert values == sorted(values), "more draws solve no fewer tasks"
    assert values[-1] == (1.0 if right else 0.0)


@pytest.mark.parametrize(("n", "right", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_cannot_be(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"{right} right of {n}"):
        pass_at_k(n, right, k)


def test_expected_distinct_counts_the_kinds_in_every_subset() -> None:
    samples = ["a", "a", "b", None, None]  # kinds a and b, two samples of no kind
    subsets = list(combinations(samples, 2))
    by_hand = sum(len(set(subset) - {None}) for subset in subsets) / len(subsets)
    assert expected_distinct([2, 1], 5, 2) == pytest.approx(by_hand)
    assert expected_distinct([], 5, 2) == 0
    with pytest.raises(ValueError, match="3 samples of a kind among 2"):
        expected_distinct([2, 1], 2, 1)


def test_mean_interval_is_students() -> None:
    # Mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom at 97.5 %: 2.776445.
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval == pytest.approx((3 - 2.776445 * sqrt(0.5), 3 + 2.776445 * sqrt(0.5)))
    assert mean_interval([1, 2, 3, 4, 5], weights=[7] * 5) == pytest.approx(interval)
    assert mean_interval([3.0]) is None
    assert mean_interval([3.0, 3.0]) == (3.0, 3.0)


def test_ratio_interval_is_that_of_the_residuals() -> None:
    assert ratio_interval([2, 4, 6], [1, 2, 3]) == pytest.approx((2, 2))
    low, high = ratio_interval([3, 5], [2, 2])  # ratio 2, residuals -1 and 1, error sqrt(2 / 1 / 2) / 2
    z = NormalDist().inv_cdf(0.975)
    assert (low, high) == pytest.approx((2 - z / 2, 2 + z / 2))
    with pytest.raises(ValueError, match="denominators above zero"):
        ratio_interval([1, 2], [0, 0])
