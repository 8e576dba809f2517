"""What an instance recorded, read the way the UI reads it."""

from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from selfimp_dagster.lifecycle.ledger import STAGES

CHECKS = {
    "incumbent_policy": {"parent_unchanged", "recipe_approved", "engine_parity"},
    "generated_corpus": {"no_evaluation_items", "every_sample_judged"},
    "selected_subset": {"no_contamination", "kept_and_dropped_are_the_corpus", "enough_rows"},
    "checkpoint": {"finite_loss", "complete_model", "engine_parity"},
    "refined_outputs": {"refinement_helps"},
    "eval_report": {"report_complete", "promoted", "guard_skills_hold", "no_alarm", "dimensions_hold"},
}
assert set(CHECKS) == set(STAGES)


def materialization(
    instance: dg.DagsterInstance, asset: str, partition: str | None
) -> dg.AssetMaterialization:
    """The newest materialization of a partition."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None
        ),
        limit=1,
    ).records
    assert records, f"{asset} {partition} was never materialized"
    found = records[0].asset_materialization
    assert found is not None
    return found


def data_version(instance: dg.DagsterInstance, asset: str, partition: str) -> str:
    return (materialization(instance, asset, partition).tags or {})["dagster/data_version"]


def check_results(instance: dg.DagsterInstance, asset: str, partition: str) -> dict[str, bool]:
    """Whether each check passed the last time it looked at this partition."""
    results = {}
    for check in CHECKS[asset]:
        history = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(asset), check), limit=50
        )
        mine = [record for record in history if record.partition == partition]
        if mine:
            results[check] = mine[0].status == AssetCheckExecutionRecordStatus.SUCCEEDED
    return results


def observations(instance: dg.DagsterInstance, asset: str, partition: str) -> list[dict[str, Any]]:
    """The metadata of every observation of a partition."""
    records = instance.fetch_observations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]), limit=50
    ).records
    return [
        {name: value.value for name, value in record.asset_observation.metadata.items()}
        for record in records
        if record.asset_observation is not None
    ]
