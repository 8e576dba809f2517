"""What the checks of corpus and subset share: no evaluation item may be among the rows."""

import dagster as dg
import polars as pl

from selfimp_dagster.lifecycle.evaluation.items import items_until, shared_with_items
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.presentation import table
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


def contamination_result(
    workbench: WorkbenchResource, key: RoundKey, rows: pl.DataFrame, row_id: str
) -> dg.AssetCheckResult:
    """Passes when no row asks an anchor, fresh or guard item of this or an earlier round."""
    policy, _ = read_policy(workbench.artifacts, key)
    items = items_until(policy.campaign, key.number, workbench.campaigns_folder)
    shared = shared_with_items(rows, items)
    return dg.AssetCheckResult(
        passed=shared.is_empty(),
        metadata={
            "rows": rows.height,
            "evaluation_items": items.height,
            "shared": table(shared.select(row_id, "prompt", "item_id", "item_pool")),
        },
    )
