"""Forgetting: a guard skill that was better under an earlier policy."""

from collections.abc import Mapping

import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.against import LEAST, incumbents, pairs_with
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, inapplicable, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval


def forgetting(
    evaluations: Mapping[str, pl.DataFrame], guarded: bool, rule: MonitorRule, level: float
) -> Reading:
    """Whether a guard skill fell against any policy that was in force so far.

    Promotion compares with the incumbent alone: falls that are each too small to be seen add up. Over the
    items that both answered, an alarm sounds if the interval of the difference (Bonett and Price) lies below
    -`guard_fall`. The level is divided by skills and incumbents.

    Args:
        evaluations: records.EVALUATIONS of each round of the line, in order, this one's last.
        guarded: whether the campaign has guard skills.
        level: of this monitor in this round.
    """
    if not guarded:
        return inapplicable("forgetting", "the campaign has no guard skills")
    guard = {round_: rows.filter(pl.col("suite") == "guard") for round_, rows in evaluations.items()}
    now = list(guard.values())[-1].filter(pl.col("arm") == "candidate")
    pairs = pairs_with(now, incumbents(guard), _scores, least=1)
    compared = [
        (round_, str(skill), rows)
        for round_, both in pairs.items()
        for (skill,), rows in both.partition_by("skill", as_dict=True).items()
        if rows.height >= LEAST
    ]
    if not compared:
        return unmeasured("forgetting", f"both answered fewer than {LEAST} items of every guard skill")
    confidence = 1 - 2 * level / len(compared)
    results = []
    for round_, skill, rows in compared:
        differences = (rows["score"] - rows["score_before"]).to_numpy()
        low, high = paired_difference_interval(differences, confidence)
        results.append((high, low, float(differences.mean()), round_, skill, rows))
    high, low, change, round_, skill, rows = min(
        results, key=lambda result: (result[0], result[3], result[4])
    )
    return Reading(
        monitor="forgetting",
        state="alarm" if high < -rule.guard_fall else "quiet",
        follows="reject",
        sentence=f"The guard skill {skill} is at {rows['score'].to_numpy().mean():.2f}, and was at "
        f"{rows['score_before'].to_numpy().mean():.2f} with the incumbent of {round_} (difference "
        f"{change:+.2f}, interval {low:+.2f} to {high:+.2f}).",
        value=change,
        low=low,
        high=high,
        threshold=-rule.guard_fall,
        level=level,
        n=rows.height,
    )


def _scores(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("item_id", "fingerprint", "skill", "score")
