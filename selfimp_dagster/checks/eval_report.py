import dagster as dg

from selfimp_dagster.assets.eval_report import eval_report
from selfimp_dagster.lifecycle.evaluation.dimensions import falls
from selfimp_dagster.lifecycle.evaluation.monitors.reading import alarms_told
from selfimp_dagster.lifecycle.evaluation.report import read_dimensions, read_monitors, read_report
from selfimp_dagster.lifecycle.evaluation.scores import pair_arms
from selfimp_dagster.lifecycle.oversight import read_outcome
from selfimp_dagster.partitions import rounds
from selfimp_dagster.records import EVALUATIONS, TASKS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=eval_report, partitions_def=rounds, blocking=True)
def report_complete(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """Both arms answered every item under the same harness."""
    artifact = workbench.artifacts.open(RoundKey.parse(context.partition_key), "eval_report")
    items = artifact.table("items", TASKS)
    pairs = pair_arms(artifact.table("evaluations", EVALUATIONS))
    return dg.AssetCheckResult(
        passed=set(pairs["item_id"]) == set(items["task_id"]),
        metadata={"items": items.height, "answered_by_both_arms": pairs.height},
    )


@dg.asset_check(asset=eval_report, partitions_def=rounds)
def promoted(context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource) -> dg.AssetCheckResult:
    """The candidate becomes the incumbent of the next round. A rejection is no fault of the pipeline."""
    key = RoundKey.parse(context.partition_key)
    verdict = read_report(workbench.artifacts, key).verdict
    outcome = read_outcome(workbench.artifacts, key)
    return dg.AssetCheckResult(
        passed=outcome.promoted,
        severity=dg.AssetCheckSeverity.WARN,
        description=outcome.question.sentence if outcome.question else verdict.sentence,
        metadata={
            "test": verdict.test,
            "p_value": verdict.p_value,
            "alpha": verdict.alpha,
            "wins": verdict.wins,
            "losses": verdict.losses,
            "gain": verdict.gain,
        },
    )


@dg.asset_check(asset=eval_report, partitions_def=rounds)
def guard_skills_hold(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """No guard skill fell beyond its interval."""
    guards = read_report(workbench.artifacts, RoundKey.parse(context.partition_key)).verdict.guards
    return dg.AssetCheckResult(
        passed=not any(guard.regressed for guard in guards),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={guard.skill: guard.difference for guard in guards},
    )


@dg.asset_check(asset=eval_report, partitions_def=rounds)
def no_alarm(context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource) -> dg.AssetCheckResult:
    """No monitor sounds an alarm; which did not measure anything is told."""
    readings = read_monitors(workbench.artifacts, RoundKey.parse(context.partition_key))
    return dg.AssetCheckResult(
        passed=not any(reading.is_alarm for reading in readings),
        severity=dg.AssetCheckSeverity.WARN,
        description=alarms_told(readings),
        metadata={reading.monitor: reading.state for reading in readings},
    )


@dg.asset_check(asset=eval_report, partitions_def=rounds)
def dimensions_hold(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """Against the best so far no skill fell, and the policy did not only sharpen."""
    found = falls(read_dimensions(workbench.artifacts, RoundKey.parse(context.partition_key)))
    return dg.AssetCheckResult(
        passed=not found, severity=dg.AssetCheckSeverity.WARN, description=" ".join(found) or None
    )
