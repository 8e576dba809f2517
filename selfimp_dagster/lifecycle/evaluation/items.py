"""The items that only evaluation reads: anchor, fresh and guard, and twins of anchor items."""

from collections import Counter
from pathlib import Path

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.twins import twin_items
from selfimp_dagster.records import TASKS
from selfimp_dagster.tasks.pools import Pool, draw_pool, pool_seed, tasks_frame, tasks_from_frame
from selfimp_dagster.tasks.suites import FileSource, read_rows
from selfimp_dagster.tasks.verifiers import verify

LEFT_OUT = pl.Schema({"skill": pl.String, "what": pl.String, "count": pl.Int64, "reason": pl.String})
"""What of a skill could not be used, how much of it, and why."""


def evaluation_items(campaign: Campaign, round_number: int, base_folder: Path) -> pl.DataFrame:
    """Guard items of the campaign, anchor items and fresh items of the round, as records.TASKS."""
    return pl.concat(_items(campaign, pool, round_number, base_folder) for pool in _pools(campaign))


def items_until(campaign: Campaign, round_number: int, base_folder: Path) -> pl.DataFrame:
    """Every evaluation item of the campaign up to and including a round, twins too, each once."""
    redrawn = campaign.pools.anchor_rounds or round_number + 1
    anchors = [
        _items(campaign, "anchor", first, base_folder) for first in range(0, round_number + 1, redrawn)
    ]
    guard = _items(campaign, "guard", 0, base_folder) if campaign.guard else TASKS.to_frame()
    found = []
    for number in range(round_number, -1, -1):
        fresh = _items(campaign, "fresh", number, base_folder)
        items = pl.concat([anchors[campaign.pools.anchor_set(number)], fresh, guard])
        found += [items, twin_items(campaign, number, items)]
    return pl.concat(found).unique("task_id", keep="first", maintain_order=True)


def judgeable(items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The items whose verifier accepts their own expected answer, and what was left out (LEFT_OUT).

    Of the others every answer would count as wrong. Items without an expected answer, which a program judges,
    stay. That the verifier is sound with most of them is for the gold probe to say.

    Raises:
        SelfimpError: no item is left.
    """
    reasons: dict[str, str] = {}
    for task in tasks_from_frame(items):
        judgement = verify(task, task.answer) if task.answer else None
        if judgement is not None and judgement.value < 1:
            does = "fails on" if judgement.error else "refuses"
            reasons[task.task_id] = f"the verifier {does} the expected answer"
    unusable = items["task_id"].is_in(list(reasons))
    if unusable.all():
        raise SelfimpError(
            f"none of the {items.height} evaluation items can be judged: {next(iter(reasons.values()))}",
            where="evaluation items",
            fix="give the skills another verifier, or answers that theirs can read",
        )
    dropped = items.filter(unusable).select("skill", "task_id").rows()
    counts = Counter((skill, reasons[id_]) for skill, id_ in dropped)
    rows = [(skill, "items", count, reason) for (skill, reason), count in sorted(counts.items())]
    return items.filter(~unusable), pl.DataFrame(rows, schema=LEFT_OUT, orient="row")


def unusable_rows(campaign: Campaign, base_folder: Path) -> pl.DataFrame:
    """The rows of the campaign's task files that are no tasks (LEFT_OUT)."""
    rows = [
        (skill, f"rows of {source.path}", count, reason)
        for skill, source in sorted({**campaign.skills, **campaign.guard}.items())
        if isinstance(source, FileSource)
        for reason, count in sorted(read_rows(source, base_folder).skipped.items())
    ]
    return pl.DataFrame(rows, schema=LEFT_OUT, orient="row")


def shared_with_items(rows: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The rows whose `prompt` is that of an evaluation item, with `item_id` and `item_pool`."""
    return rows.join(items.select("prompt", item_id="task_id", item_pool="pool"), on="prompt")


def _pools(campaign: Campaign) -> list[Pool]:
    return ["anchor", "fresh", "guard"] if campaign.guard else ["anchor", "fresh"]


def _items(campaign: Campaign, pool: Pool, round_number: int, base_folder: Path) -> pl.DataFrame:
    drawn = draw_pool(
        pool,
        campaign.guard if pool == "guard" else campaign.skills,
        getattr(campaign.pools, pool),
        seed=pool_seed(pool, campaign.seed, round_number, campaign.pools.anchor_set(round_number)),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=base_folder,
    )
    return tasks_frame(drawn.tasks, pool)
