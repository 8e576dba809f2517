import dagster as dg
import polars as pl

from selfimp_dagster.assets.selected_subset import selected_subset
from selfimp_dagster.checks.contamination import contamination_result
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lifecycle.selection.stage import SUBSET, require_rows
from selfimp_dagster.partitions import rounds
from selfimp_dagster.records import SAMPLES, SELECTION
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=selected_subset, partitions_def=rounds, blocking=True)
def no_contamination(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """No selected row asks an evaluation item of this or an earlier round."""
    key = RoundKey.parse(context.partition_key)
    subset = workbench.artifacts.open(key, "selected_subset").table("subset", SUBSET)
    return contamination_result(workbench, key, subset, row_id="sample_id")


@dg.asset_check(asset=selected_subset, partitions_def=rounds, blocking=True)
def kept_and_dropped_are_the_corpus(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """Every sample of the corpus has exactly one final fate, and the kept ones are the subset."""
    key = RoundKey.parse(context.partition_key)
    artifact = workbench.artifacts.open(key, "selected_subset")
    samples = workbench.artifacts.open(key, "generated_corpus").table("samples", SAMPLES)
    last = artifact.table("selection", SELECTION).sort("position").unique("sample_id", keep="last")
    kept = set(last.filter("kept")["sample_id"])
    subset = artifact.table("subset", SUBSET)
    return dg.AssetCheckResult(
        passed=set(last["sample_id"]) == set(samples["sample_id"]) and kept == set(subset["sample_id"]),
        metadata={
            "samples": samples.height,
            "kept": len(kept),
            "dropped": last.filter(~pl.col("kept")).height,
        },
    )


@dg.asset_check(asset=selected_subset, partitions_def=rounds, blocking=True)
def enough_rows(context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource) -> dg.AssetCheckResult:
    """There are at least as many rows as the recipe needs to train on."""
    key = RoundKey.parse(context.partition_key)
    policy, _ = read_policy(workbench.artifacts, key)
    subset = workbench.artifacts.open(key, "selected_subset").table("subset", SUBSET)
    minimum = policy.campaign.recipe.minimum_rows
    try:
        require_rows(subset, minimum, key)
    except SelfimpError as error:
        return dg.AssetCheckResult(passed=False, description=f"{error.what}: {error.fix}.")
    return dg.AssetCheckResult(passed=True, metadata={"rows": subset.height, "minimum": minimum})
