from itertools import combinations, product
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, fisher_exact, norm

from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    Marked,
    PastTest,
    bradley_terry,
    e_value_critical_wins,
    e_value_p,
    effective_items,
    expected_distinct,
    independent_difference_interval,
    level_of_round,
    log_e_value,
    mcnemar_critical_wins,
    mcnemar_exact,
    mean_interval,
    minimum_guard_items,
    minimum_items,
    non_inferiority,
    non_inferiority_power,
    paired_bootstrap,
    paired_difference_interval,
    paired_power,
    pass_at_k,
    ratio_interval,
    rogan_gladen,
    sign_flip_permutation,
    surplus_p_value,
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


@pytest.mark.parametrize(("wins", "losses"), [(10, 2), (61, 12), (5, 9), (0, 3), (400, 330)])
def test_mcnemar_agrees_with_scipys_survival_function(wins: int, losses: int) -> None:
    assert mcnemar_exact(wins, losses) == pytest.approx(binom.sf(wins - 1, wins + losses, 0.5))


def test_mcnemar_of_the_published_example() -> None:
    # Airway reactivity of 21 children, Fagerland et al. 2013: 1 and 7 discordant pairs, two-sided p = 0.0703.
    assert 2 * mcnemar_exact(7, 1) == pytest.approx(0.0703, abs=5e-5)


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


MARKED = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda n: Marked(n[0], n[1], min(n[0], n[2]), min(n[1], n[3]))
)


@given(MARKED)
def test_a_surplus_in_one_stratum_is_fishers_exact_test(table: Marked) -> None:
    plain = [
        [table.first_marked, table.first - table.first_marked],
        [table.second_marked, table.second - table.second_marked],
    ]
    assert surplus_p_value([table]) == pytest.approx(fisher_exact(plain, alternative="greater").pvalue)


def test_a_surplus_over_strata_counts_every_way_in_which_lots_can_fall() -> None:
    strata = [Marked(2, 2, 2, 0), Marked(1, 2, 1, 0)]
    # Both marked in the first two of four: 1 way in 6; the one marked in the first of three: 1 in 3.
    assert surplus_p_value(strata) == pytest.approx(1 / 6 * 1 / 3)
    # At least two of three: 1/6 both and 2/3 one of the first stratum.
    assert surplus_p_value([Marked(2, 2, 1, 1), Marked(1, 2, 1, 0)]) == pytest.approx(1 / 6 + 2 / 3 * 1 / 3)
    assert surplus_p_value([]) == 1.0
    assert surplus_p_value([Marked(5, 5, 0, 3)]) == pytest.approx(1.0)


def test_no_more_can_be_marked_than_there_are() -> None:
    with pytest.raises(ValueError, match="3 of 2 and 0 of 2"):
        surplus_p_value([Marked(2, 2, 3, 0)])


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


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (8, 10), (81, 263), (300, 300)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high))


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


def test_bootstrap_covers_the_true_mean() -> None:
    rng, true = np.random.default_rng(2), 0.05
    samples = [rng.beta(2, 1, 60) - rng.beta(2, 1, 60) + true for _ in range(150)]
    intervals = [paired_bootstrap(sample, 0.9, seed) for seed, sample in enumerate(samples)]
    covered = sum(low <= true <= high for low, high in intervals)
    assert binom.ppf(0.001, 150, 0.88) <= covered <= binom.isf(0.001, 150, 0.92)


@pytest.mark.parametrize(("n", "discordance", "gain"), [(20, 0.2, 0.0), (60, 0.1, 0.1), (200, 0.3, -0.05)])
def test_paired_interval_covers_the_true_difference(n: int, discordance: float, gain: float) -> None:
    covered = 0.0
    for discordant in range(n + 1):
        for wins in range(discordant + 1):
            chance = binom.pmf(discordant, n, discordance) * binom.pmf(
                wins, discordant, (1 + gain / discordance) / 2
            )
            if chance > 1e-7:
                rest = [0.0] * (n - discordant)
                interval = paired_difference_interval(
                    [1.0] * wins + [-1.0] * (discordant - wins) + rest, confidence=0.95
                )
                covered += chance * (interval.low <= gain <= interval.high)
    assert 0.94 <= covered <= 0.99


def test_bootstrap_of_equal_differences_has_no_width() -> None:
    assert paired_bootstrap([0.5] * 3, 0.95, seed=0) == (0.5, 0.5)


def test_independent_interval_is_newcombes_published_one() -> None:
    # 56/70 against 48/80, table II (a) of Newcombe 1998: method 10 gives 0.0524 to 0.3339.
    first, second = (Estimate(k / n, *wilson(k, n), n) for k, n in ((56, 70), (48, 80)))
    assert independent_difference_interval(first, second) == pytest.approx((0.0524, 0.3339), abs=5e-5)


plans = st.tuples(st.none() | st.integers(1, 12), st.integers(1, 12))  # planned rounds and patience


def levels_of(alpha: float, plan: tuple[int | None, int], promoted: list[bool]) -> list[float]:
    """The levels of a line of rounds with these verdicts."""
    line: list[PastTest] = []
    for number, verdict in enumerate(promoted):
        line.append(PastTest(number, level_of_round(alpha, *plan, number, line), verdict))
    return [test.level for test in line]


@given(
    alpha=st.floats(0.001, 0.5), plan=plans, promoted=st.lists(st.booleans(), max_size=20), last=st.booleans()
)
def test_what_may_do_harm_is_at_most_alpha(
    alpha: float, plan: tuple[int | None, int], promoted: list[bool], last: bool
) -> None:
    levels = levels_of(alpha, plan, [*promoted, last])
    rejected = [level for level, verdict in zip(levels, promoted, strict=False) if not verdict]
    # The last round's promotion is the first false one: those before it were of better candidates.
    assert sum(rejected) + levels[-1] <= alpha * (1 + 1e-12)
    assert all(level >= 0 for level in levels)


@given(
    plan=plans,
    rounds=st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=14),
)
def test_branches_share_the_plan(plan: tuple[int | None, int], rounds: list[tuple[int, bool]]) -> None:
    lines: list[list[PastTest]] = [[]]  # the line up to each round; before the first, none
    for number, (choice, promoted) in enumerate(rounds):
        before = lines[choice % len(lines)]
        level = level_of_round(0.05, *plan, number, before)
        lines.append([*before, PastTest(number, level, promoted)])
    tests = [line[-1] for line in lines[1:]]
    for last, test in enumerate(tests):
        assert sum(t.level for t in tests[:last] if not t.promoted) + test.level <= 0.05 * (1 + 1e-12)


@given(plan=plans, promoted=st.lists(st.booleans(), min_size=1, max_size=12), place=st.integers(0, 11))
def test_a_promotion_lowers_no_later_level(
    plan: tuple[int | None, int], promoted: list[bool], place: int
) -> None:
    once_more = [verdict or number == place for number, verdict in enumerate(promoted)]
    levels, raised = levels_of(0.05, plan, promoted), levels_of(0.05, plan, once_more)
    assert all(high >= low * (1 - 1e-12) for low, high in zip(levels, raised, strict=True))


@given(planned=st.integers(1, 60), promoted=st.lists(st.booleans(), max_size=60))
def test_with_patience_for_the_whole_plan_no_level_is_below_its_even_share(
    planned: int, promoted: list[bool]
) -> None:
    levels = levels_of(0.05, (planned, planned), promoted[:planned])
    assert all(level >= 0.05 / planned * (1 - 1e-9) for level in levels)
    if not any(promoted):
        assert levels == pytest.approx([0.05 / planned] * len(levels))


def test_levels_of_a_line() -> None:
    # A third of what is left, all of it in the last rounds of the plan; the promoted second keeps its third.
    levels = levels_of(0.09, (5, 3), [False, True, False, False, False])
    assert levels == pytest.approx([0.03, 0.02, 0.02, 0.02, 0.02])
    assert level_of_round(0.09, 5, 3, 5, []) == 0
    assert levels_of(0.05, (None, 1), [True, True, False, False]) == [0.05, 0.05, 0.05, 0]
    assert levels_of(0.05, (8, 8), [True] * 8) == pytest.approx([0.05 / (8 - k) for k in range(8)])  # Holm's


def test_an_open_ended_campaign_never_spends_more_than_alpha() -> None:
    levels = levels_of(0.05, (None, 3), [False] * 200)
    assert sum(levels) == pytest.approx(0.05)
    assert all(level > 0 for level in levels)


def test_rounds_that_are_not_on_the_line_count_as_rejected() -> None:
    line = [PastTest(0, 0.05 / 4, True), PastTest(2, 0.05 / 3, True)]
    between = PastTest(1, 0.05 / 3, False)
    assert level_of_round(0.05, 4, 4, 3, line) == level_of_round(0.05, 4, 4, 3, [*line, between])


@pytest.mark.parametrize("arguments", [(0.0, 8, 3, 0), (0.05, 0, 3, 0), (0.05, 8, 0, 0), (0.05, 8, 3, -1)])
def test_levels_refuse_nonsense(arguments: tuple[float, int, int, int]) -> None:
    with pytest.raises(ValueError, match="planned rounds"):
        level_of_round(*arguments)


def test_no_more_than_alpha_of_the_campaigns_promote_noise_after_promotions_that_were_earned() -> None:
    # Two rounds of three have a candidate that is sure to win; what they keep must not break the bound.
    rng, campaigns = np.random.default_rng(3), 4000
    false = 0
    for p_values in rng.random((campaigns, 12)):
        line: list[PastTest] = []
        for number, p_value in enumerate(p_values):
            level = level_of_round(0.05, 12, 3, number, line)
            noise = number % 3 == 2
            line.append(PastTest(number, level, not noise or p_value <= level))
            if noise and p_value <= level:
                false += 1
                break
    assert 0.04 * campaigns < false <= binom.isf(0.001, campaigns, 0.05)


differences_of_items = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60)


@given(wins=st.integers(0, 300), losses=st.integers(0, 300))
def test_an_e_value_of_wins_and_losses_is_a_mixture_of_likelihood_ratios(wins: int, losses: int) -> None:
    win = (1 + np.arange(1, 100) / 100) / 2
    ratios = binom.logpmf(wins, wins + losses, win) - binom.logpmf(wins, wins + losses, 0.5)
    e_value = log_e_value([1.0] * wins + [-1.0] * losses + [0.0])
    assert e_value == pytest.approx(np.log(np.exp(ratios - ratios.max()).mean()) + ratios.max(), abs=1e-9)


@given(differences_of_items)
def test_the_expected_e_value_of_fair_signs_is_one(differences: list[float]) -> None:
    few = differences[:8]
    flips = [np.array(signs) * few for signs in product((-1, 1), repeat=len(few))]
    assert np.mean([np.exp(log_e_value(flipped)) for flipped in flips]) == pytest.approx(1)


@given(differences_of_items, st.floats(0.01, 1))
def test_an_e_value_is_not_moved_by_ties_or_order_and_grows_with_the_gain(
    differences: list[float], more: float
) -> None:
    e_value = log_e_value(differences)
    assert log_e_value([*reversed(differences), 0.0]) == pytest.approx(e_value)
    assert log_e_value([min(1.0, d + more) for d in differences]) >= e_value
    assert 0 < e_value_p(differences) <= 1


def test_looking_again_after_every_item_keeps_the_level_of_an_e_value_and_breaks_that_of_a_p_value() -> None:
    rng, campaigns, items, level = np.random.default_rng(5), 2000, 300, 0.05
    won = np.cumsum(rng.random((campaigns, items)) < 0.5, axis=1)
    seen = np.arange(1, items + 1)
    by_e_value = (won >= e_value_critical_wins(seen, level)).any(axis=1).sum()
    by_p_value = (won >= mcnemar_critical_wins(seen, level)).any(axis=1).sum()
    assert by_e_value <= binom.isf(0.001, campaigns, level)
    assert by_p_value > 2 * binom.isf(0.001, campaigns, level)


def test_e_values_refuse_differences_beyond_one() -> None:
    with pytest.raises(ValueError, match="differences"):
        log_e_value([0.5, 1.5])


@given(discordant=st.integers(0, 120), alpha=st.sampled_from([0.05, 0.00625, 0.001]))
def test_critical_wins_of_the_e_value_are_where_it_starts_to_reject(discordant: int, alpha: float) -> None:
    critical = int(e_value_critical_wins(discordant, alpha))

    def p_value(wins: int) -> float:
        return e_value_p([0.0] + [1.0] * wins + [-1.0] * (discordant - wins))

    assert critical > discordant or p_value(critical) <= alpha
    assert critical == 0 or p_value(critical - 1) > alpha


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
    assert paired_power(n, gain, discordance, alpha) == pytest.approx(expected)


def test_power_at_no_gain_is_at_most_alpha() -> None:
    assert paired_power(300, 0.0, 0.2, 0.05) <= 0.05


def test_power_refuses_a_gain_above_the_discordance() -> None:
    with pytest.raises(ValueError, match="discordance"):
        paired_power(100, 0.3, 0.2, 0.05)


@pytest.mark.parametrize(
    ("gain", "discordance", "alpha", "power"),
    [(0.1, 0.2, 0.01, 0.8), (0.5, 1.0, 0.05, 0.9), (0.1, 0.1, 0.05, 0.1), (0.3, 1.0, 0.01, 0.9)],
)
def test_minimum_items_is_the_first_that_suffices(
    gain: float, discordance: float, alpha: float, power: float
) -> None:
    first = next(n for n in range(1, 1000) if paired_power(n, gain, discordance, alpha) >= power)
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


@pytest.mark.parametrize(
    ("wins", "losses", "n", "confidence", "low"),
    [
        (1, 7, 21, 0.95, -0.517),  # airway reactivity, Fagerland et al. 2014
        (48, 41, 549, 0.90, -0.0157),  # R's PropCIs::scoreci.mp, the lower end and, mirrored, the upper one
        (41, 48, 549, 0.90, -0.0414),
    ],
)
def test_non_inferiority_inverts_to_tangos_published_intervals(
    wins: int, losses: int, n: int, confidence: float, low: float
) -> None:
    tail = (1 - confidence) / 2
    margin = brentq(lambda m: non_inferiority(wins, losses, n, m) - tail, 1e-9, 1 - 1e-9)
    assert -margin == pytest.approx(low, rel=5e-3)


@pytest.mark.parametrize(
    ("wins", "losses", "n", "margin"), [(2, 8, 100, 0.1), (5, 3, 48, 0.05), (9, 30, 90, 0.3)]
)
def test_non_inferiority_is_the_score_test_of_the_constrained_likelihood(
    wins: int, losses: int, n: int, margin: float
) -> None:
    def minus_log_likelihood(win: float) -> float:
        return -(
            wins * np.log(win)
            + losses * np.log(win + margin)
            + (n - wins - losses) * np.log(1 - 2 * win - margin)
        )

    bounds = (1e-9, (1 - margin) / 2 - 1e-9)
    win = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    z = (wins - losses + n * margin) / sqrt(n * (2 * win + margin - margin**2))
    assert non_inferiority(wins, losses, n, margin) == pytest.approx(norm.sf(z), rel=1e-4)


@given(n=st.integers(1, 300), margin=st.floats(0.01, 0.5), data=st.data())
def test_non_inferiority_falls_with_wins_and_rises_with_losses(
    n: int, margin: float, data: st.DataObject
) -> None:
    wins = data.draw(st.integers(0, n))
    losses = data.draw(st.integers(0, n - wins))
    p = non_inferiority(wins, losses, n, margin)
    assert 0 <= p <= 1
    if wins + losses < n:
        assert non_inferiority(wins + 1, losses, n, margin) <= p + 1e-12
        assert non_inferiority(wins, losses + 1, n, margin) >= p - 1e-12


@pytest.mark.parametrize("n", [48, 100, 200])
@pytest.mark.parametrize("margin", [0.05, 0.1])
@pytest.mark.parametrize("discordance", [0.12, 0.2, 0.3])
def test_a_fall_by_the_margin_passes_with_about_the_level(n: int, margin: float, discordance: float) -> None:
    passed = 0.0
    for discordant in range(n + 1):
        wins = np.arange(discordant + 1)
        chances = binom.pmf(wins, discordant, (1 - margin / discordance) / 2)
        passes = non_inferiority(wins, discordant - wins, n, margin) <= 0.05
        passed += binom.pmf(discordant, n, discordance) * (chances @ passes)
    assert passed <= 0.056  # a score test: its level holds about, not exactly


def test_power_of_the_guard_is_the_sum_over_all_outcomes() -> None:
    n, margin, discordance = 30, 0.2, 0.3
    expected = sum(
        binom.pmf(d, n, discordance) * binom.pmf(w, d, 0.5)
        for d in range(n + 1)
        for w in range(d + 1)
        if non_inferiority(w, d - w, n, margin) <= 0.05
    )
    assert non_inferiority_power(n, margin, discordance, 0.05) == pytest.approx(expected)


def test_minimum_guard_items_is_the_first_that_suffices() -> None:
    first = next(n for n in range(1, 1000) if non_inferiority_power(n, 0.15, 0.2, 0.05) >= 0.8)
    assert minimum_guard_items(0.15, 0.2, 0.05, 0.8) == first


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(1, 1, 10, margin)
    with pytest.raises(ValueError, match="margin"):
        minimum_guard_items(margin, 0.2, 0.05, 0.8)


def test_corrected_rates_are_the_published_ones() -> None:
    # epiR's example of epi.prev: 23 of 150 cows, sensitivity 0.96, specificity 0.89: 5.1 per 100.
    corrected = rogan_gladen(23, 150, (96, 100), (89, 100))
    assert corrected is not None
    assert corrected.value == pytest.approx((23 / 150 + 0.89 - 1) / (0.96 + 0.89 - 1))
    assert round(100 * corrected.value, 1) == 5.1
    assert corrected.low == 0.0


def test_a_perfect_judge_is_not_corrected_but_its_interval_allows_for_the_trial() -> None:
    corrected = rogan_gladen(60, 200, (32, 32), (32, 32))
    assert corrected is not None
    assert corrected.value == pytest.approx(0.3)
    plain = wilson(60, 200)
    assert corrected.high - corrected.low > plain.high - plain.low


@pytest.mark.parametrize(
    "counts",
    [(5, 10, (8, 16), (8, 16)), (5, 10, (3, 16), (8, 16)), (0, 0, (9, 9), (9, 9)), (5, 10, (0, 0), (9, 9))],
    ids=["chance", "worse than chance", "nothing judged", "not tried"],
)
def test_what_says_nothing_is_not_corrected(
    counts: tuple[int, int, tuple[int, int], tuple[int, int]],
) -> None:
    assert rogan_gladen(*counts) is None


def test_counts_beyond_their_totals_are_refused() -> None:
    with pytest.raises(ValueError, match="counts of totals"):
        rogan_gladen(11, 10, (9, 9), (9, 9))


@pytest.mark.parametrize(("share", "se", "sp"), [(0.3, 0.85, 0.8), (0.05, 0.9, 0.9), (0.5, 1.0, 1.0)])
def test_the_interval_of_a_corrected_rate_covers_the_truth(share: float, se: float, sp: float) -> None:
    rng = np.random.default_rng(0)
    accepted = rng.binomial(200, share * se + (1 - share) * (1 - sp), 400)
    tried = zip(rng.binomial(32, se, 400), rng.binomial(32, sp, 400), strict=True)
    found = [
        rogan_gladen(int(count), 200, (int(right), 32), (int(wrong), 32))
        for count, (right, wrong) in zip(accepted, tried, strict=True)
    ]
    covered = [estimate.low <= share <= estimate.high for estimate in found if estimate]
    assert len(covered) == 400
    assert np.mean(covered) >= 0.93


_BASEBALL = [  # wins of the row's team over the column's: American League East 1987 (Agresti 2002, 10.6)
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]


def test_strengths_are_the_published_ones() -> None:
    games = [
        (i, j, 1.0) for i, row in enumerate(_BASEBALL) for j, wins in enumerate(row) for _ in range(wins)
    ]
    strengths = np.log(bradley_terry(7, games, prior=0))
    assert np.round(strengths - strengths[-1], 2).tolist() == [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]


def test_strengths_of_two_are_their_wins_and_a_draw_is_half_of_one() -> None:
    one, other = bradley_terry(2, [(0, 1, 1.0)] * 2 + [(1, 0, 1.0)] + [(0, 1, 0.5)] * 2, prior=0)
    assert one / other == pytest.approx(3 / 2)


def test_a_single_game_gives_finite_strengths() -> None:
    # With half a game won and lost against a player of strength 1: x = 1.5 / (1/(x + 1/x) + 1/(x + 1)).
    one, other = bradley_terry(2, [(0, 1, 1.0)])
    assert other == pytest.approx(1 / one)
    assert one == pytest.approx(1.5 / (1 / (one + other) + 1 / (one + 1)))
    assert bradley_terry(3, []) == [1.0, 1.0, 1.0]
