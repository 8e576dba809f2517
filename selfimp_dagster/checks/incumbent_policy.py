import dagster as dg

from selfimp_dagster.assets.incumbent_policy import incumbent_policy
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.partitions import rounds
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=incumbent_policy, partitions_def=rounds)
def parent_unchanged(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """The parent round's artifacts are still those that this round was started from."""
    store = workbench.artifacts
    _, artifact = read_policy(store, RoundKey.parse(context.partition_key))
    changed = []
    for place, version in artifact.manifest.parents.items():
        parent, asset = place.rsplit("/", 1)
        if store.open(RoundKey.parse(parent), asset, verify=False).data_version != version:
            changed.append(place)
    return dg.AssetCheckResult(
        passed=not changed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"parents": len(artifact.manifest.parents), "changed": ", ".join(changed) or "none"},
    )
