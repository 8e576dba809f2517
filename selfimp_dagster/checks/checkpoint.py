import dagster as dg

from selfimp_dagster.assets.checkpoint import checkpoint
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.loading import check_model_folder
from selfimp_dagster.partitions import rounds
from selfimp_dagster.records import TRAINING_CURVE
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=checkpoint, partitions_def=rounds, blocking=True)
def finite_loss(context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource) -> dg.AssetCheckResult:
    """Every step of the training had a finite loss."""
    artifact = workbench.artifacts.open(RoundKey.parse(context.partition_key), "checkpoint")
    loss = artifact.table("training_curve", TRAINING_CURVE)["loss"]
    return dg.AssetCheckResult(
        passed=bool(loss.is_finite().all()) and not loss.is_empty(),
        metadata={"steps": loss.len(), "first_loss": loss[0], "final_loss": loss[-1]},
    )


@dg.asset_check(asset=checkpoint, partitions_def=rounds, blocking=True)
def complete_model(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """The folder is a whole model in safetensors format, and its weights are not the ones it began with."""
    artifact = workbench.artifacts.open(RoundKey.parse(context.partition_key), "checkpoint")
    check_model_folder(artifact.folder / "model")
    found = policy_hash(artifact.folder / "model")
    return dg.AssetCheckResult(
        passed=found == artifact.facts["policy_hash"] != artifact.facts["parent_policy_hash"],
        metadata={"policy_hash": found, "parent_policy_hash": artifact.facts["parent_policy_hash"]},
    )
