"""Collapse: a policy that says ever less or loses what it could do, and what it was trained on."""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.against import incumbents, pairs_with
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, inapplicable, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval, ratio_interval
from selfimp_dagster.lifecycle.selection.text import normalised

_MEASURES = {
    "entropy": "entropy of its tokens",
    "distinct": "number of different responses",
    "solved": "pass@k",
}
_LOST = 0.9  # confidence, 95 % on one side, at which the policy in force must have lost something too
_LEAST_SOLVED = 5  # items that a reference must have solved at all before its pass@k says anything


class _Change(NamedTuple):
    """What became of a measure; an alarm if `high` lies below the threshold and it is not `excused`."""

    excused: bool
    sentence: str
    value: float
    low: float
    high: float
    threshold: float
    n: int


def collapse(
    watched: Mapping[str, pl.DataFrame],
    evaluations: Mapping[str, pl.DataFrame],
    rule: MonitorRule,
    level: float,
) -> Reading:
    """Whether the candidate varies less without being more often right, or lost what earlier policies could.

    A policy that is fed on its own words loses variety and accuracy with every generation (Shumailov et al.
    2024, doi:10.1038/s41586-024-07566-y; Alemohammad et al. 2023, arXiv:2307.01850).

    Variety: of each measure it is the ratio to an incumbent, over the same watched items, by linearisation
    (Cochran 1977, section 6.4), with one item more that did not change. An alarm sounds if the interval of
    one ratio lies below 1 - `collapse_fall` while the accuracy of single draws is not above that incumbent's:
    a policy that grows sure because it grows right also varies less.

    Accuracy: an alarm sounds if the interval of the difference (Bonett and Price), over the anchor items that
    both answered, lies below -`accuracy_fall` against an incumbent before the one in force, and the one in
    force fell too (with 95 % confidence). That a single candidate is worse is for the gate to see; what
    several generations lost, each a little, the gate cannot see.

    The level is divided by all of these.

    Args:
        watched: records.WATCHED of each round of the line, in order, this one's last.
        evaluations: records.EVALUATIONS likewise.
        level: of this monitor in this round.
    """
    varied = [
        (round_, measure, rows)
        for round_, rows in pairs_with(_candidate(watched), incumbents(watched), _variety).items()
        for measure in _MEASURES
        if _has_variety(rows, measure)
    ]
    if not varied:
        return unmeasured("collapse", "too few watched items were answered several times by both")
    anchor = {round_: rows.filter(pl.col("suite") == "anchor") for round_, rows in evaluations.items()}
    in_force = set(_arm(anchor, "incumbent")["policy_hash"])
    before = {
        round_: rows
        for round_, rows in incumbents(anchor).items()
        if not in_force.intersection(rows["policy_hash"])
    }
    answered = pairs_with(_candidate(anchor), before, _scores)
    lost = {
        round_
        for round_, rows in pairs_with(_arm(anchor, "incumbent"), before, _scores).items()
        if paired_difference_interval((rows["score"] - rows["score_before"]).to_numpy(), _LOST).high < 0
    }
    confidence = 1 - 2 * level / (len(varied) + len(answered))
    changes = [
        *(_ratio(round_, measure, rows, rule, confidence) for round_, measure, rows in varied),
        *(
            _difference(round_, rows, round_ not in lost, rule, confidence)
            for round_, rows in answered.items()
        ),
    ]
    # The one farthest beyond its threshold, or nearest to it, among those that nothing excuses.
    worst = min(changes, key=lambda change: (change.excused, change.high - change.threshold))
    return Reading(
        monitor="collapse",
        state="alarm" if worst.high < worst.threshold and not worst.excused else "quiet",
        follows="reject",
        sentence=worst.sentence,
        value=worst.value,
        low=worst.low,
        high=worst.high,
        threshold=worst.threshold,
        level=level,
        n=worst.n,
    )


def _has_variety(rows: pl.DataFrame, measure: str) -> bool:
    """Whether the reference had any of it to lose."""
    before = rows[f"{measure}_before"].to_numpy().sum()
    return bool(before >= _LEAST_SOLVED if measure == "solved" else before > 0)


def _ratio(round_: str, measure: str, rows: pl.DataFrame, rule: MonitorRule, confidence: float) -> _Change:
    before, after = rows[f"{measure}_before"].to_list(), rows[measure].to_list()
    mean = sum(before) / len(before)
    before, after = [*before, mean], [*after, mean]
    low, high = ratio_interval(after, before, confidence)
    ratio, low = sum(after) / sum(before), max(0.0, low)
    rises = float((rows["right"] - rows["right_before"]).to_numpy().mean())
    threshold = 1 - rule.collapse_fall
    sounds = high < threshold and rises <= 0
    return _Change(
        rises > 0,
        f"The {_MEASURES[measure]} on {rows.height} watched items is {ratio:.2f} times that of the incumbent "
        f"of {round_} (interval {low:.2f} to {high:.2f}), the accuracy of single draws {rises:+.2f}"
        + (": the candidate says less and is no more often right." if sounds else "."),
        ratio,
        low,
        high,
        threshold,
        rows.height,
    )


def _difference(
    round_: str, rows: pl.DataFrame, excused: bool, rule: MonitorRule, confidence: float
) -> _Change:
    changes = (rows["score"] - rows["score_before"]).to_numpy()
    low, high = paired_difference_interval(changes, confidence)
    now, then = (float(rows[name].to_numpy().mean()) for name in ("score", "score_before"))
    sounds = high < -rule.accuracy_fall and not excused
    return _Change(
        excused,
        f"The candidate scores {now:.2f} on {rows.height} anchor items, the incumbent of {round_} "
        f"{then:.2f} (difference {now - then:+.2f}, interval {low:+.2f} to {high:+.2f})"
        + (": the generations since then lost what it could do." if sounds else "."),
        now - then,
        low,
        high,
        -rule.accuracy_fall,
        rows.height,
    )


def _candidate(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    return _arm(tables, "candidate")


def _arm(tables: Mapping[str, pl.DataFrame], arm: str) -> pl.DataFrame:
    """The rows of this round's arm."""
    return list(tables.values())[-1].filter(pl.col("arm") == arm)


def _scores(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("item_id", "fingerprint", "score")


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
    training: pl.DataFrame,
    samples: pl.DataFrame,
    round_: str,
    later: bool,
    verified: bool,
    floor: float,
) -> Reading:
    """Whether the candidate was trained on anything but the policy's own unverified words of this round.

    Replacing data by what the last policy wrote is what collapses; accumulating them, or keeping a share of
    real ones, does not (Gerstgrasser et al. 2024, arXiv:2404.01413).

    Args:
        training: records.TRAINING of the candidate.
        samples: records.SAMPLES of the round's corpus.
        round_: the round.
        later: whether the line has earlier rounds. A first round has none whose rows it could keep.
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
    if not kept and not later:
        return unmeasured(
            "real_data", "a first round without demonstrations has nothing real to keep; the next one has"
        )
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
