"""The items that only evaluation reads: anchor, fresh and guard."""

from pathlib import Path

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.tasks.pools import Pool, draw_pool, pool_seed, tasks_frame


def evaluation_items(campaign: Campaign, round_number: int, base_folder: Path) -> pl.DataFrame:
    """Guard items of the campaign, anchor items and fresh items of the round, as records.TASKS."""
    return pl.concat(_items(campaign, pool, round_number, base_folder) for pool in _pools(campaign))


def items_until(campaign: Campaign, round_number: int, base_folder: Path) -> pl.DataFrame:
    """Every evaluation item of the campaign up to and including a round, each once."""
    fresh = [_items(campaign, "fresh", number, base_folder) for number in range(round_number)]
    redrawn = campaign.pools.anchor_rounds
    first_rounds = range(0, round_number, redrawn) if redrawn else ()
    anchor = [_items(campaign, "anchor", number, base_folder) for number in first_rounds]
    return pl.concat([evaluation_items(campaign, round_number, base_folder), *fresh, *anchor]).unique(
        "task_id", maintain_order=True
    )


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
