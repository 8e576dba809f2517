import dagster as dg

from selfimp_dagster.assets.refined_outputs import refined_outputs
from selfimp_dagster.partitions import rounds
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=refined_outputs, partitions_def=rounds)
def refinement_helps(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """Refinement turns no more right answers into wrong ones than wrong ones into right ones."""
    facts = workbench.artifacts.open(RoundKey.parse(context.partition_key), "refined_outputs").facts
    return dg.AssetCheckResult(
        passed=facts["right_to_wrong"] <= facts["wrong_to_right"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: facts[name] for name in ("right_to_wrong", "wrong_to_right", "tasks")},
    )
