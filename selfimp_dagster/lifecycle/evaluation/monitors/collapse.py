"""Collapse: a policy that says ever less, and what it was trained on."""

from collections.abc import Mapping

import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.against import incumbents, pairs_with
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, inapplicable, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.statistics import ratio_interval
from selfimp_dagster.lifecycle.selection.text import normalised

_MEASURES = {
    "entropy": "entropy of its tokens",
    "distinct": "number of different responses",
    "solved": "pass@k",
}
_LEAST_SOLVED = 5  # items that a reference must have solved at all before its pass@k says anything


def collapse(watched: Mapping[str, pl.DataFrame], rule: MonitorRule, level: float) -> Reading:
    """Whether the candidate's answers to watched items lost their variety and are no more often right.

    Data autophagy shows as less variety with every generation (Shumailov et al. 2024,
    doi:10.1038/s41586-024-07566-y; Alemohammad et al. 2023, arXiv:2307.01850). Of each measure it is the
    ratio to an incumbent, over the same items, by linearisation (Cochran 1977, section 6.4), with one item
    more that did not change. An alarm sounds if the interval of one ratio lies below 1 - `collapse_fall`
    while the accuracy of single draws is not above that incumbent's: a policy that grows sure because it
    grows right also varies less. The level is divided by the measures and incumbents.

    Args:
        watched: records.WATCHED of each round of the line, in order, this one's last.
        level: of this monitor in this round.
    """
    now = _candidate(watched)
    pairs = pairs_with(now, incumbents(watched), _variety)
    compared = []
    for round_, rows in pairs.items():
        for measure in _MEASURES:
            before, after = rows[f"{measure}_before"].to_list(), rows[measure].to_list()
            if measure == "solved" and sum(before) < _LEAST_SOLVED:
                continue
            mean = sum(before) / len(before)
            if mean > 0:
                compared.append((round_, measure, rows, [*before, mean], [*after, mean]))
    if not compared:
        return unmeasured("collapse", "too few watched items were answered several times by both")
    confidence = 1 - 2 * level / len(compared)
    results = []
    for round_, measure, rows, before, after in compared:
        low, high = ratio_interval(after, before, confidence)
        rises = float((rows["right"] - rows["right_before"]).to_numpy().mean())
        results.append((rises <= 0, high, sum(after) / sum(before), low, round_, measure, rows, rises))
    # The worst of those that would be an alarm, else the worst of all.
    _, high, ratio, low, round_, measure, rows, rises = min(results, key=lambda r: (not r[0], r[1]))
    threshold = 1 - rule.collapse_fall
    sounds = high < threshold and rises <= 0
    return Reading(
        monitor="collapse",
        state="alarm" if sounds else "quiet",
        follows="reject",
        sentence=f"The {_MEASURES[measure]} on {rows.height} watched items is {ratio:.2f} times that of the "
        f"incumbent of {round_} (interval {max(0.0, low):.2f} to {high:.2f}), the accuracy of single draws "
        f"{rises:+.2f}" + (": the candidate says less and is no more often right." if sounds else "."),
        value=ratio,
        low=max(0.0, low),
        high=high,
        threshold=threshold,
        level=level,
        n=rows.height,
    )


def _candidate(watched: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    return list(watched.values())[-1].filter(pl.col("arm") == "candidate")


def _variety(draws: pl.DataFrame) -> pl.DataFrame:
    """What the draws (records.WATCHED) of one policy say of each item."""
    return (
        draws.with_columns(text=normalised(pl.col("response")))
        .group_by("item_id", "fingerprint")
        .agg(
            entropy=-pl.col("mean_logprob").sort().mean(),
            distinct=pl.col("text").n_unique().cast(pl.Float64),
            solved=(pl.col("score") >= 1).any().cast(pl.Float64),
            right=pl.col("score").sort().mean(),
        )
    )


def real_data(
    training: pl.DataFrame, samples: pl.DataFrame, round_: str, verified: bool, floor: float
) -> Reading:
    """Whether the candidate was trained on anything but the policy's own unverified words of this round.

    Replacing data by what the last policy wrote is what collapses; accumulating them, or keeping a share of
    real ones, does not (Gerstgrasser et al. 2024, arXiv:2404.01413).

    Args:
        training: records.TRAINING of the candidate.
        samples: records.SAMPLES of the round's corpus.
        round_: the round.
        verified: whether the recipe sees the verdicts of the tasks' verifiers.
        floor: the share below which an alarm sounds.
    """
    if verified:
        return inapplicable("real_data", "the recipe sees the verdicts of the tasks' verifiers")
    if training.is_empty():
        return unmeasured("real_data", "the candidate was trained on no recorded rows")
    shown = samples.filter(pl.col("generation") == "D")["sample_id"]
    rows = training.unique(["sample_id", "task_id", "origin_round"])
    kept = rows.filter(
        (pl.col("origin_round") != round_)
        | pl.col("sample_id").is_null()
        | pl.col("sample_id").is_in(shown.implode())
    ).height
    share = kept / rows.height
    return Reading(
        monitor="real_data",
        state="alarm" if share < floor else "quiet",
        follows="warn",
        sentence=f"{kept} of {rows.height} trained rows are demonstrations or of earlier rounds; the others "
        "are what the policy wrote in this round, unverified.",
        value=share,
        threshold=floor,
        n=rows.height,
    )
