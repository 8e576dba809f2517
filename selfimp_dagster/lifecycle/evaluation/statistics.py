"""Statistics of paired and weighted accuracies.

Pure functions; scores and accuracies are shares in [0, 1], differences lie in [-1, 1]. scipy.stats is
imported where it is used: it costs more than a second, and the code location imports this module.
"""

from collections.abc import Callable, Iterable, Sequence
from math import comb, exp, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

RESAMPLES = 19_999  # resolves p-values down to 5e-5: alpha 0.05 over 1000 rounds, or 14 times less a third
_BATCH = 1_000  # resamples held in memory at once
_TAIL = 1e-12  # probability that power calculations may ignore on either side
_TEETH = 10  # of the sawtooth that power is in n; farther down it cannot reach the power again
_STEPS = 10_000  # of the maximisation of a Bradley-Terry likelihood, which ends long before
_BETS: Vector = np.arange(1, 100) / 100  # shares of its capital that the e-value's player stakes on each item


class Interval(NamedTuple):
    """Both ends belong to the interval."""

    low: float
    high: float


class PastTest(NamedTuple):
    """A round that was tested: its number, the level of its test, and whether it was promoted."""

    number: int
    level: float
    promoted: bool


class Estimate(NamedTuple):
    """A share with its confidence interval, from `n` items."""

    value: float
    low: float
    high: float
    n: int


class Marked(NamedTuple):
    """So many items of two groups, and how many of each are marked."""

    first: int
    second: int
    first_marked: int
    second_marked: int


def surplus_p_value(strata: Sequence[Marked]) -> float:
    """One-sided p-value of "of the first group more are marked", from items of several strata.

    Under the null hypothesis the marked items of a stratum fall on its items by lot, so that those of the
    first group are hypergeometric, and their sum over strata is the convolution: Fisher's exact test,
    stratified. Agresti 1992, section 4, doi:10.1214/ss/1177011454. Without strata 1.

    Raises:
        ValueError: more are marked than there are.
    """
    from scipy.stats import hypergeom

    chances, seen = np.ones(1), 0
    for first, second, first_marked, second_marked in strata:
        if not 0 <= first_marked <= first or not 0 <= second_marked <= second:
            raise ValueError(f"{first_marked} of {first} and {second_marked} of {second} items are marked")
        marked = first_marked + second_marked
        chances = np.convolve(chances, hypergeom.pmf(np.arange(marked + 1), first + second, marked, first))
        seen += first_marked
    return min(1.0, float(chances[seen:].sum()))


def mcnemar_exact(wins: int, losses: int) -> float:
    """One-sided p-value of "the candidate is better", from the items on which the arms disagree.

    Under the null hypothesis each such item is a fair coin, so this is a binomial test.
    McNemar 1947, doi:10.1007/BF02295996; exact form: Fagerland et al. 2013, doi:10.1186/1471-2288-13-91.

    Raises:
        ValueError: a count is negative.
    """
    from scipy.stats import binomtest

    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses")
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue)


def sign_flip_permutation(differences: Sequence[float] | Vector, seed: int) -> float:
    """One-sided p-value of "the mean paired difference is above zero", for graded scores.

    All sign patterns are enumerated where there are at most `RESAMPLES` of them; otherwise that many are
    drawn and the observed one is counted in, so that the p-value is valid and never zero.
    Phipson and Smyth 2010, doi:10.2202/1544-6115.1585. For differences of -1, 0 and 1 the enumeration
    is the exact McNemar test.

    Raises:
        ValueError: a difference is not finite.
    """
    from scipy.stats import permutation_test

    values = _finite(differences)
    changed = values[values != 0]  # a zero keeps the sum whatever its sign
    if changed.size == 0:
        return 1.0
    if changed.size == 1:  # scipy wants two observations
        return 0.5 if changed[0] > 0 else 1.0
    result = permutation_test(
        (changed,),
        lambda flipped, axis: np.sum(flipped, axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of a share; `n` may be an effective, non-integer number of items.

    Wilson 1927, doi:10.1080/01621459.1927.10502953. For graded scores in [0, 1] it is conservative, since
    their variance is at most that of 0/1 scores with the same mean. Without items: everything.

    Raises:
        ValueError: successes are not in [0, n], or the confidence is not in (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z = _two_sided_z(confidence)
    if n == 0:
        return Interval(0.0, 1.0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The ends are exact at a share of 0 and 1; elsewhere rounding must not push them past the share.
    return Interval(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def rogan_gladen(
    accepted: int,
    judged: int,
    sensitivity: tuple[int, int],
    specificity: tuple[int, int],
    confidence: float = 0.95,
) -> Estimate | None:
    """The share of right answers behind the share that an imperfect judge accepted.

    Rogan and Gladen 1978, doi:10.1093/oxfordjournals.aje.a112510: (p + sp - 1) / (se + sp - 1), held within 0
    and 1. The interval also covers that sensitivity and specificity are themselves estimated, and keeps its
    width where they were found to be 1: Lang and Reiczigel 2014, doi:10.1016/j.prevetmed.2013.09.015.

    Args:
        accepted, judged: answers that the judge accepted, of those that it judged.
        sensitivity: right answers that it accepted in a trial, and how many it was shown.
        specificity: wrong answers that it refused in the trial, and how many it was shown.

    Returns:
        None where nothing was judged, or where the judge is no better than chance, so that what it accepted
        says nothing.

    Raises:
        ValueError: a count is not within 0 and its total.
    """
    counts = ((accepted, judged), sensitivity, specificity)
    if any(not 0 <= count <= total for count, total in counts):
        raise ValueError(f"counts of totals: {counts}")
    if not all(total for _, total in counts):
        return None
    share, se, sp = (count / total for count, total in counts)
    if se + sp <= 1:
        return None
    z = _two_sided_z(confidence)
    n, n_se, n_sp = judged + z * z, sensitivity[1] + 2, specificity[1] + 2
    p, se_, sp_ = (accepted + z * z / 2) / n, (sensitivity[0] + 1) / n_se, (specificity[0] + 1) / n_sp
    informed = se_ + sp_ - 1
    centre = (p + sp_ - 1) / informed
    of_se, of_sp = se_ * (1 - se_) / n_se, sp_ * (1 - sp_) / n_sp
    half = z * sqrt(p * (1 - p) / n + centre**2 * of_se + (1 - centre) ** 2 * of_sp) / informed
    middle = centre + 2 * z * z * (centre * of_se - (1 - centre) * of_sp)
    value = min(1.0, max(0.0, (share + sp - 1) / (se + sp - 1)))
    low, high = (min(1.0, max(0.0, end)) for end in (middle - half, middle + half))
    return Estimate(value, min(low, value), max(high, value), judged)


def bradley_terry(players: int, games: Sequence[tuple[int, int, float]], prior: float = 0.5) -> list[float]:
    """The strengths behind paired comparisons: i beats j with probability s_i / (s_i + s_j).

    Bradley and Terry 1952, doi:10.2307/2334029; maximised as Hunter 2004, doi:10.1214/aos/1079120141. A draw
    counts as half a win for each.

    Args:
        players: how many there are, numbered from 0.
        games: the two that met, and what came of it for the first: 1 won, 0.5 drawn, 0 lost.
        prior: games that each is taken to have won, and to have lost, against a player of strength 1. They
            keep one that won all its games finite, and tie together those that never met; without them every
            player must have won and lost.
    """
    wins = [prior] * players
    met: dict[tuple[int, int], int] = {}
    for first, second, score in games:
        wins[first] += score
        wins[second] += 1 - score
        met[first, second] = met.get((first, second), 0) + 1
    strengths = [1.0] * players
    for _ in range(_STEPS):
        expected = [2 * prior / (strength + 1) for strength in strengths]
        for (first, second), times in met.items():
            share = times / (strengths[first] + strengths[second])
            expected[first] += share
            expected[second] += share
        new = [won / rate for won, rate in zip(wins, expected, strict=True)]
        moved = max(abs(after / before - 1) for after, before in zip(new, strengths, strict=True))
        strengths = new
        if moved < 1e-9:
            break
    return strengths


def weighted_accuracy(
    scores: Sequence[float] | Vector, weights: Sequence[float] | Vector, confidence: float = 0.95
) -> Estimate:
    """Accuracy of items that carry weights, with a Wilson interval.

    The interval uses Kish's effective sample size, (sum w)^2 / sum w^2 (Kish 1965, Survey Sampling), and so
    is the plain Wilson interval where all weights are equal. It takes no credit for stratification by
    skill, which can only narrow it.

    Raises:
        ValueError: no items, lengths differ, a weight is not positive, or a score is outside [0, 1].
    """
    values, w = _finite(scores), _normalised(weights, len(scores))
    if values.min() < 0 or values.max() > 1:
        raise ValueError("scores must lie in [0, 1]")
    value = min(1.0, float(values @ w))  # the weights sum to one only up to rounding
    effective = effective_items(w)
    low, high = wilson(value * effective, effective, confidence)
    return Estimate(value, low, high, values.size)


def effective_items(weights: Sequence[float] | Vector) -> float:
    """Kish's effective sample size: how many equally weighted items would vary as little."""
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w @ w))


def paired_difference_interval(
    differences: Sequence[float] | Vector,
    confidence: float = 0.95,
    weights: Sequence[float] | Vector | None = None,
) -> Interval:
    """Interval of the (weighted) mean of paired differences in [-1, 1].

    Bonett and Price 2012, doi:10.3102/1076998611411915: the Wald interval after adding one win and one
    loss, which keeps its coverage at small n, at no disagreement and at total disagreement, where a
    bootstrap has zero width. Graded differences get the same two pseudo-items; weights enter through
    Kish's effective sample size.

    Raises:
        ValueError: no items, lengths differ, a weight is not positive, or a difference is outside [-1, 1].
    """
    values = _finite(differences)
    if values.min() < -1 or values.max() > 1:
        raise ValueError("differences must lie in [-1, 1]")
    w = _normalised(np.ones(values.size) if weights is None else weights, values.size)
    n = effective_items(w)
    mean = n * float(values @ w) / (n + 2)
    second_moment = (n * float(values**2 @ w) + 2) / (n + 2)
    half = _two_sided_z(confidence) * sqrt((second_moment - mean**2) / (n + 2))
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def paired_bootstrap(differences: Sequence[float] | Vector, confidence: float, seed: int) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean of paired differences.

    Efron 1987, doi:10.1080/01621459.1987.10478410. It adapts to the skew of graded scores, and is blind
    where the sample is: equal differences give an interval of zero width.

    Raises:
        ValueError: no items, or a difference is not finite.
    """
    from scipy.stats import bootstrap

    values = _finite(differences)
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high))


def mean_interval(
    values: Sequence[float] | Vector,
    confidence: float = 0.95,
    weights: Sequence[float] | Vector | None = None,
) -> Interval | None:
    """Student's t interval of the (weighted) mean of independent values, such as one value for each task.

    Samples of one task depend on each other: whoever averages them first and gives one value a task has an
    interval that holds for new tasks. None for a single value, which does not say how values vary.

    Raises:
        ValueError: no values, lengths differ, a value is not finite, or a weight is not positive.
    """
    from scipy.stats import t

    array = _finite(values)
    w = _normalised(np.ones(array.size) if weights is None else weights, array.size)
    if array.size == 1:
        return None
    mean = float(w @ array)
    error = sqrt(float(w**2 @ (array - mean) ** 2) * array.size / (array.size - 1))
    half = float(t.ppf(0.5 + confidence / 2, array.size - 1)) * error
    return Interval(mean - half, mean + half)


def ratio_interval(
    numerators: Sequence[float] | Vector, denominators: Sequence[float] | Vector, confidence: float = 0.95
) -> Interval:
    """Interval of the ratio of two means over the same items, by linearisation.

    Cochran 1977, Sampling Techniques, section 6.4: the variance is that of the residuals
    numerator - ratio x denominator.

    Raises:
        ValueError: no items, lengths differ, or the denominators' mean is not positive.
    """
    above, below = _finite(numerators), _finite(denominators)
    if above.size != below.size or below.mean() <= 0:
        raise ValueError("one numerator for each denominator is needed, and denominators above zero")
    ratio = float(above.mean() / below.mean())
    residuals = above - ratio * below
    error = float(np.sqrt(residuals @ residuals / max(1, above.size - 1) / above.size) / below.mean())
    half = _two_sided_z(confidence) * error
    return Interval(ratio - half, ratio + half)


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that at least one of k of a task's n samples is right, when `right` of them are.

    The unbiased estimator of Chen et al. 2021, arXiv:2107.03374: 1 - C(n - right, k) / C(n, k).

    Raises:
        ValueError: not 0 <= right <= n, or not 1 <= k <= n.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"{right} right of {n} samples, k = {k}")
    return 1 - comb(n - right, k) / comb(n, k)


def expected_distinct(counts: Sequence[int], n: int, k: int) -> float:
    """How many different kinds k of n samples hold on average, when each kind is there `counts` times.

    Rarefaction (Hurlbert 1971, doi:10.2307/1934145): the sum of `pass_at_k` over the kinds, so that tasks
    with different numbers of samples can be compared. Samples of no kind (wrong answers) only fill up n.

    Raises:
        ValueError: the kinds hold more than n samples, or not 1 <= k <= n.
    """
    if sum(counts) > n:
        raise ValueError(f"{sum(counts)} samples of a kind among {n}")
    return sum(pass_at_k(n, count, k) for count in counts)


def independent_difference_interval(first: Estimate, second: Estimate) -> Interval:
    """Interval of `first.value - second.value` for estimates from different items.

    Newcombe 1998, method 10, doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I: the two
    Wilson intervals combined, at the confidence at which they were made.
    """
    difference = first.value - second.value
    return Interval(
        difference - sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2),
        difference + sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2),
    )


def level_of_round(
    alpha: float,
    planned_rounds: int | None,
    patience: int,
    round_number: int,
    line: Iterable[PastTest] = (),
) -> float:
    """The level of a round's test: what is left of alpha over the rounds that may still fail.

    A round that is not promoted spends its level, a promoted one spends nothing. What is left is divided by
    `patience`, or by the rounds left of the plan if they are fewer; beyond the plan the level is 0.

    Why the chance of any false promotion in the campaign is at most alpha, if each p-value is valid given
    the past (arXiv:2210.01948): up to the first false promotion, every round whose candidate is no better
    spends its level and every promoted round had a better candidate, so the levels that can do harm add up
    to at most alpha, and with them the chance of harm. Candidates may depend on all that came before, and
    so, in a line without branches, may the plan. It is an online form of the fallback procedure (Wiens and
    Dmitrienko 2005, doi:10.1080/10543400500265660; Tian and Ramdas 2021, doi:10.1177/0962280220983381).

    Branches share the plan. A round knows the verdicts of its own line; every other number before it counts
    as not promoted. That can only lower its level, since a promotion anywhere raises all later levels: so
    what one round passed on is never counted in two branches.

    Args:
        alpha: error probability of the whole campaign.
        planned_rounds: rounds of the plan; None in an open-ended campaign.
        patience: rounds in a row without promotion after which the campaign stops.
        round_number: this round, counted from 0.
        line: its ancestors.

    Raises:
        ValueError: alpha is not in (0, 1), no round is planned, the patience is below 1 or the round number
            is negative.
    """
    planned_none = planned_rounds is not None and planned_rounds < 1
    if not 0 < alpha < 1 or planned_none or patience < 1 or round_number < 0:
        raise ValueError(
            f"alpha {alpha}, {planned_rounds} planned rounds, patience {patience}, round {round_number}"
        )

    def share(left: float, number: int) -> float:
        may_fail = patience if planned_rounds is None else min(patience, planned_rounds - number)
        return left / may_fail if may_fail > 0 else 0.0

    tested = {round_.number: round_ for round_ in line}
    left = alpha
    for number in range(round_number):
        round_ = tested.get(number)
        if round_ is None:
            left -= share(left, number)
        elif not round_.promoted:
            left = max(0.0, left - round_.level)
    return share(left, round_number)


def log_e_value(differences: Sequence[float] | Vector) -> float:
    """Natural logarithm of the e-value against "the mean paired difference is at most zero".

    A player stakes the share b of its capital on every item, which multiplies the capital by 1 + b times the
    difference; the e-value is its capital after all items from 1, averaged over b = 0.01 to 0.99. If the
    candidate is no better its expected value is at most 1 after any number of items, so an evaluation may
    be extended by further items, and tested again, as often as one likes: the chance that 1 / e ever falls
    to a level is at most that level. For differences of -1, 0 and 1 it is the likelihood ratio of the win
    probabilities (1 + b) / 2 against 1/2. Waudby-Smith and Ramdas 2024, doi:10.1093/jrsssb/qkad009; Ramdas et
    al. 2023, arXiv:2210.01948; Robbins 1970, doi:10.1214/aoms/1177696786.

    Raises:
        ValueError: no items, or a difference is outside [-1, 1].
    """
    values = _finite(differences)
    if values.min() < -1 or values.max() > 1:
        raise ValueError("differences must lie in [-1, 1]")
    return float(_log_mean_exp(np.log1p(np.multiply.outer(_BETS, values)).sum(axis=1)))


def e_value_p(differences: Sequence[float] | Vector) -> float:
    """The p-value that an e-value is, 1 / e: valid however often the evaluation is extended.

    Raises:
        ValueError: as `log_e_value`.
    """
    return min(1.0, exp(-log_e_value(differences)))


def mcnemar_critical_wins(discordant: npt.ArrayLike, alpha: float) -> npt.NDArray[np.int64]:
    """The fewest wins among so many discordant items at which `mcnemar_exact` is at most alpha.

    Where no number of wins suffices, the answer is one more than the discordant items.
    """
    from scipy.stats import binom

    counts = np.asarray(discordant, dtype=np.int64)
    critical = np.ones_like(counts)
    some = counts > 0
    critical[some] = binom.isf(alpha, counts[some], 0.5).astype(np.int64) + 1
    return critical


def e_value_critical_wins(discordant: npt.ArrayLike, alpha: float) -> npt.NDArray[np.int64]:
    """The fewest wins among so many discordant items at which `e_value_p` is at most alpha.

    Where no number of wins suffices, the answer is one more than the discordant items.
    """
    counts = np.asarray(discordant, dtype=np.int64)
    low, high = np.full_like(counts, -1), counts + 1  # too few wins; enough, or more than there are
    while (high - low > 1).any():
        wins = (low + high) // 2
        growth = np.multiply.outer(wins, np.log1p(_BETS)) + np.multiply.outer(counts - wins, np.log1p(-_BETS))
        enough = _log_mean_exp(growth) >= -np.log(alpha)
        low, high = np.where(enough, low, wins), np.where(enough, wins, high)
    return high


CriticalWins = Callable[[npt.ArrayLike, float], npt.NDArray[np.int64]]
"""Discordant items and the level of a test -> the fewest wins that it rejects at."""


def paired_power(
    n: int,
    gain: float,
    discordance: float,
    alpha: float,
    critical_wins: CriticalWins = mcnemar_critical_wins,
) -> float:
    """Exact probability that a test of the items won and lost is significant on n items.

    Args:
        n: items that both arms answer.
        gain: true difference in accuracy.
        discordance: share of items on which the arms disagree.
        alpha: one-sided level of the test.
        critical_wins: the test, `mcnemar_critical_wins` or `e_value_critical_wins`.

    The number of discordant items is binomial and so, given it, is the number of wins.
    Duffy 1984, doi:10.2307/2531164.

    Raises:
        ValueError: n is below 1, the discordance is not in (0, 1], or the gain exceeds it in size.
    """
    from scipy.stats import binom

    discordant, chances, win = _discordant_items(n, gain, discordance)
    critical = critical_wins(discordant, alpha)
    return float(chances @ binom.sf(critical - 1, discordant, win))


def minimum_items(
    gain: float,
    discordance: float,
    alpha: float,
    power: float,
    critical_wins: CriticalWins = mcnemar_critical_wins,
) -> int:
    """The smallest number of items on which the test has that power.

    Raises:
        ValueError: the gain is not in (0, discordance], or alpha or power is not in (0, 1).
    """
    if not 0 < gain <= discordance or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"gain {gain}, discordance {discordance}, alpha {alpha}, power {power}")
    return _first(lambda n: paired_power(n, gain, discordance, alpha, critical_wins), discordance, power)


def non_inferiority(wins: npt.ArrayLike, losses: npt.ArrayLike, n: int, margin: float) -> Vector:
    """One-sided p-values of "accuracy fell by less than the margin", from the items won and lost of n.

    The score test of a paired difference (Tango 1998,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B). For graded scores, `wins` and
    `losses` are the sums of what items gained and lost; their variance is at most that of 0/1 scores with
    the same sums, so the test is conservative then.

    Raises:
        ValueError: n is below 1 or the margin is not in (0, 1).
    """
    from scipy.stats import norm

    if n < 1 or not 0 < margin < 1:
        raise ValueError(f"n {n}, margin {margin}")
    won, lost = np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    # The likeliest share of items won, if the difference were just -margin: the root of a quadratic.
    linear = (2 * n + won - lost) * margin - won - lost
    share = (np.sqrt(linear**2 + 8 * n * won * margin * (1 - margin)) - linear) / (4 * n)
    variance = n * (2 * share + margin * (1 - margin))
    p_values: Vector = norm.sf((won - lost + n * margin) / np.sqrt(variance))
    return p_values


def non_inferiority_power(n: int, margin: float, discordance: float, alpha: float) -> float:
    """Exact probability that `non_inferiority` is at most alpha for a candidate that is just as good.

    Raises:
        ValueError: n is below 1, the margin is not in (0, 1) or the discordance not in (0, 1].
    """
    from scipy.stats import binom

    discordant, chances, _ = _discordant_items(n, 0.0, discordance)
    wins = np.arange(discordant[-1] + 1)
    passes = non_inferiority(wins, np.maximum(discordant[:, None] - wins, 0), n, margin) <= alpha
    return float(chances @ (binom.pmf(wins, discordant[:, None], 0.5) * passes).sum(axis=1))


def minimum_guard_items(margin: float, discordance: float, alpha: float, power: float) -> int:
    """The smallest number of items on which a candidate that is just as good passes with that probability.

    Raises:
        ValueError: a value is not in (0, 1), or the discordance not in (0, 1].
    """
    if not 0 < margin < 1 or not 0 < discordance <= 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"margin {margin}, discordance {discordance}, alpha {alpha}, power {power}")
    return _first(lambda n: non_inferiority_power(n, margin, discordance, alpha), discordance, power)


def _first(power_at: Callable[[int], float], discordance: float, power: float) -> int:
    """The smallest number of items with that power."""
    low, high = 0, 1
    while power_at(high) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    # Exact power is a sawtooth in n, with a tooth for every two discordant items: the bisection ends on one
    # of its edges, and an earlier one may do.
    for n in range(max(1, high - int(_TEETH * 2 / discordance)), high):
        if power_at(n) >= power:
            return n
    return high


def _discordant_items(n: int, gain: float, discordance: float) -> tuple[npt.NDArray[np.int64], Vector, float]:
    """How many of n items may be discordant, the chance of each number, and that one of them is won."""
    from scipy.stats import binom

    if n < 1 or not 0 < discordance <= 1 or abs(gain) > discordance:
        raise ValueError(f"n {n}, gain {gain}, discordance {discordance}")
    least, most = binom.ppf(_TAIL, n, discordance), binom.isf(_TAIL, n, discordance)
    discordant = np.arange(int(least), int(most) + 1)
    return discordant, binom.pmf(discordant, n, discordance), (1 + gain / discordance) / 2


def _log_mean_exp(growth: Vector) -> Vector:
    """log(mean(exp)) over the last axis, without overflow."""
    most = growth.max(axis=-1, keepdims=True)
    mean: Vector = most[..., 0] + np.log(np.exp(growth - most).mean(axis=-1))
    return mean


def _two_sided_z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _finite(values: Sequence[float] | Vector) -> Vector:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("at least one value is needed, and all must be finite")
    return array


def _normalised(weights: Sequence[float] | Vector, length: int) -> Vector:
    array = _finite(weights)
    if array.size != length or array.min() <= 0:
        raise ValueError("weights must be positive, one for each item")
    normalised: Vector = array / array.sum()
    return normalised
