"""Statistics of paired and weighted accuracies.

Pure functions; scores and accuracies are shares in [0, 1], differences lie in [-1, 1]. scipy.stats is
imported where it is used: it costs more than a second, and the code location imports this module.
"""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

RESAMPLES = 19_999  # resolves p-values down to 5e-5: a campaign alpha of 0.05 over 1000 rounds
_BATCH = 1_000  # resamples held in memory at once
_TAIL = 1e-12  # probability that power calculations may ignore on either side
_TEETH = 10  # of the sawtooth that power is in n; farther down it cannot reach the power again


class Interval(NamedTuple):
    """Both ends belong to the interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A share with its confidence interval, from `n` items."""

    value: float
    low: float
    high: float
    n: int


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


def alpha_for_round(alpha: float, planned_rounds: int, round_number: int) -> float:
    """The share of a campaign's error probability that one round may spend; rounds count from 0.

    Uniform spending: by Bonferroni's inequality the chance of any false promotion in the campaign is at
    most alpha, however the rounds depend on each other. Rounds beyond the plan get nothing.

    Raises:
        ValueError: alpha is not in (0, 1), no round is planned, or the round number is negative.
    """
    if not 0 < alpha < 1 or planned_rounds < 1 or round_number < 0:
        raise ValueError(f"alpha {alpha}, {planned_rounds} planned rounds, round {round_number}")
    return alpha / planned_rounds if round_number < planned_rounds else 0.0


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


def mcnemar_power(n: int, gain: float, discordance: float, alpha: float) -> float:
    """Exact probability that `mcnemar_exact` is at most alpha on n items.

    Args:
        n: items that both arms answer.
        gain: true difference in accuracy.
        discordance: share of items on which the arms disagree.
        alpha: one-sided level of the test.

    The number of discordant items is binomial and so, given it, is the number of wins.
    Duffy 1984, doi:10.2307/2531164.

    Raises:
        ValueError: n is below 1, the discordance is not in (0, 1], or the gain exceeds it in size.
    """
    from scipy.stats import binom

    if n < 1 or not 0 < discordance <= 1 or abs(gain) > discordance:
        raise ValueError(f"n {n}, gain {gain}, discordance {discordance}")
    least, most = binom.ppf(_TAIL, n, discordance), binom.isf(_TAIL, n, discordance)
    discordant = np.arange(max(1, int(least)), int(most) + 1)
    critical = mcnemar_critical_wins(discordant, alpha)
    rejects = binom.sf(critical - 1, discordant, (1 + gain / discordance) / 2)
    return float(binom.pmf(discordant, n, discordance) @ rejects)


def minimum_items(gain: float, discordance: float, alpha: float, power: float) -> int:
    """The smallest number of items on which the exact McNemar test has that power.

    Raises:
        ValueError: the gain is not in (0, discordance], or alpha or power is not in (0, 1).
    """
    if not 0 < gain <= discordance or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"gain {gain}, discordance {discordance}, alpha {alpha}, power {power}")
    low, high = 0, 1
    while mcnemar_power(high, gain, discordance, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(middle, gain, discordance, alpha) < power:
            low = middle
        else:
            high = middle
    # Exact power is a sawtooth in n, with a tooth for every two discordant items: the bisection ends on one
    # of its edges, and an earlier one may do.
    for n in range(max(1, high - int(_TEETH * 2 / discordance)), high):
        if mcnemar_power(n, gain, discordance, alpha) >= power:
            return n
    return high


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
