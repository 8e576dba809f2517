"""Evaluation items that became known: leaked, memorised, or found in the corpus."""

from collections.abc import Mapping, Sequence

import polars as pl

from selfimp_dagster.lifecycle.evaluation.items import shared_with_items
from selfimp_dagster.lifecycle.evaluation.monitors.against import LEAST
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.scores import suite_accuracy, twin_gap
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Marked,
    independent_difference_interval,
    surplus_p_value,
    wilson,
)
from selfimp_dagster.lifecycle.selection.text import normalised


def leakage(
    evaluations: pl.DataFrame, skill_weights: Mapping[str, float], rule: MonitorRule, level: float
) -> Reading:
    """Whether the candidate knows the fixed items better than new ones of the same skills.

    An alarm sounds if accuracy on anchor items less that on fresh ones lies above `leakage_gap` with its
    interval (Newcombe's method 10).

    Args:
        evaluations: records.EVALUATIONS of the round.
        skill_weights: the campaign's mix.
        level: of this monitor in this round.
    """
    answers = evaluations.filter(pl.col("arm") == "candidate").sort("suite", "item_id")
    anchor, fresh = (answers.filter(pl.col("suite") == suite) for suite in ("anchor", "fresh"))
    shared = sorted(set(anchor["skill"]) & set(fresh["skill"]))
    anchor, fresh = (rows.filter(pl.col("skill").is_in(shared)) for rows in (anchor, fresh))
    if min(anchor.height, fresh.height) < LEAST:
        return unmeasured("leakage", f"fewer than {LEAST} anchor or fresh items share a skill")
    # One-sided: both tails of the interval would hold twice the error that it may spend.
    confidence = 1 - 2 * level
    known, new = (
        suite_accuracy(rows, suite, skill_weights, confidence)
        for rows, suite in ((anchor, "anchor"), (fresh, "fresh"))
    )
    low, high = independent_difference_interval(known, new)
    sounds = low > rule.leakage_gap
    return Reading(
        monitor="leakage",
        state="alarm" if sounds else "quiet",
        follows="stop",
        sentence=f"The candidate scores {known.value:.2f} on the anchor suite and {new.value:.2f} on fresh "
        f"items of the same skills (difference {known.value - new.value:+.2f}, interval {low:+.2f} to "
        f"{high:+.2f})" + (": anchor items may have leaked into its training." if sounds else "."),
        value=known.value - new.value,
        low=low,
        high=high,
        threshold=rule.leakage_gap,
        level=level,
        n=known.n + new.n,
    )


def memorisation(
    twins: Sequence[pl.DataFrame], skill_weights: Mapping[str, float], rule: MonitorRule, level: float
) -> Reading:
    """Whether the candidate knows items better than their twins, by more than the line's first incumbent did.

    That one may have known items before the campaign, and twins may be harder than items: neither is a rise.

    Args:
        twins: records.TWINS of the rounds of the line that asked any, this round's last.
        skill_weights: the campaign's mix.
        level: of this monitor in this round.
    """
    if not twins or twins[-1].is_empty():
        return unmeasured("memorisation", "no twins were asked")
    now = twins[-1].filter(pl.col("arm") == "candidate")
    comparable = (table for table in twins if table["fingerprint"].is_in(now["fingerprint"].implode()).any())
    before = next(comparable).filter(pl.col("arm") == "incumbent")
    shared = sorted(set(now["skill"]) & set(before["skill"]))
    now, before = (rows.filter(pl.col("skill").is_in(shared)) for rows in (now, before))
    if min(now.height, before.height) < LEAST:
        return unmeasured("memorisation", f"fewer than {LEAST} twins of the same skills were asked")
    after, first = (twin_gap(rows, skill_weights, 1 - 2 * level) for rows in (now, before))
    low, high = independent_difference_interval(after, first)
    sounds = low > rule.memorisation_rise
    return Reading(
        monitor="memorisation",
        state="alarm" if sounds else "quiet",
        follows="stop",
        sentence=f"The candidate scores {after.value:+.2f} higher on {after.n} anchor items than on their "
        f"twins, the first incumbent of the line {first.value:+.2f} (rise {after.value - first.value:+.2f}, "
        f"interval {low:+.2f} to {high:+.2f})" + (": it may have memorised items." if sounds else "."),
        value=after.value - first.value,
        low=low,
        high=high,
        threshold=rule.memorisation_rise,
        level=level,
        n=after.n,
    )


def contamination(
    tasks: pl.DataFrame, selection: pl.DataFrame, items: pl.DataFrame, rule: MonitorRule, level: float
) -> Reading:
    """Whether evaluation items are in the round's corpus.

    Pools keep them apart by a hash, so a single task with the prompt of an item is an alarm. So is a share of
    tasks whose samples decontamination found to quote an item, whole or in part, that lies above
    `contamination_floor` with its Wilson interval. What quotes an item was dropped.

    An item that is asked in other words keeps its answer. The data may have known anchor items, but not the
    fresh ones of the round, and both are drawn alike: without a leak, the corpus has the answers of as large
    a part of the ones as of the others. An alarm sounds if it has those of more anchor items, by the exact
    test over skills. Where few answers are possible all are found, and it sees nothing. The level is divided
    by what was measured.

    Args:
        tasks: records.TASKS of the corpus.
        selection: records.SELECTION of its samples.
        items: the evaluation items of the round, records.TASKS.
        level: of this monitor in this round.
    """
    if tasks.is_empty():
        return unmeasured("contamination", "the corpus has no tasks")
    copied = shared_with_items(tasks, items)["task_id"].n_unique()
    judged = selection.filter(pl.col("step") == "decontamination")
    reached = judged["task_id"].n_unique()
    quoting = judged.filter(~pl.col("kept"))["task_id"].n_unique()
    skills = _answers_found(tasks, items)
    measured = (reached >= LEAST) + bool(skills)
    if not measured and not copied:
        return unmeasured(
            "contamination",
            f"the samples of only {reached} tasks reached decontamination, and fewer than {LEAST} anchor or "
            "fresh items share a skill and have an answer",
        )
    each = level / max(1, measured)
    low, high = wilson(quoting, reached, 1 - 2 * each)
    p_value = surplus_p_value(skills)
    told = (
        f"{copied} of {tasks.height} tasks of the corpus have the prompt of an evaluation item; of {reached} "
        f"tasks whose samples reached decontamination, {quoting} quote one (interval of the share {low:.2f} "
        f"to {high:.2f})"
    )
    if skills:
        known, new, *found = (sum(counts) for counts in zip(*skills, strict=True))
        told += (
            f"; tasks have the answers of {found[0]} of {known} anchor items and of {found[1]} of {new} "
            f"fresh ones (p = {p_value:.2g})"
        )
    quotes = reached >= LEAST and low > rule.contamination_floor
    return Reading(
        monitor="contamination",
        state="alarm" if copied or quotes or p_value <= each else "quiet",
        follows="stop",
        sentence=f"{told}.",
        value=quoting / reached if reached else None,
        low=low,
        high=high,
        threshold=rule.contamination_floor,
        level=level,
        n=reached,
    )


def _answers_found(tasks: pl.DataFrame, items: pl.DataFrame) -> list[Marked]:
    """For each skill the anchor and fresh items with an answer, and those whose answer some task has too.

    None where too few share a skill.
    """
    answer = normalised(pl.col("answer")).str.to_lowercase()
    known = tasks.select(answer).drop_nulls()["answer"].unique()
    is_anchor, is_fresh, found = pl.col("pool") == "anchor", pl.col("pool") == "fresh", pl.col("found")
    by_skill = (
        items.select("pool", "skill", answer)
        .drop_nulls("answer")
        .with_columns(found=pl.col("answer").is_in(known.implode()))
        .group_by("skill")
        .agg(
            first=is_anchor.sum(),
            second=is_fresh.sum(),
            first_marked=(is_anchor & found).sum(),
            second_marked=(is_fresh & found).sum(),
        )
        .filter(pl.col("first") > 0, pl.col("second") > 0)
        .sort("skill")
        .drop("skill")
    )
    if min(by_skill["first"].sum(), by_skill["second"].sum()) < LEAST:
        return []
    return [Marked(**row) for row in by_skill.iter_rows(named=True)]
