"""The runs of rounds: read from the instance, by the partition tag that Dagster itself sets."""

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.execution.stats import StepEventStatus
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import GRPC_INFO_TAG, PARTITION_NAME_TAG

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

NIGHT_TAG = "selfimp/night"
"""The campaign and night that a run belongs to; runs that a person started have none."""


def has_run(instance: dg.DagsterInstance, key: RoundKey) -> bool:
    """Whether any run of this round was ever launched."""
    return bool(instance.get_run_ids(dg.RunsFilter(tags={PARTITION_NAME_TAG: str(key)}), limit=1))


def runs_in_flight(instance: dg.DagsterInstance, campaign: str) -> list[dg.DagsterRun]:
    """Runs of any round of a campaign that are queued or under way, newest first."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[*IN_PROGRESS_RUN_STATUSES, dg.DagsterRunStatus.QUEUED]))
    return [run for run in runs if run.tags.get(PARTITION_NAME_TAG, "").startswith(f"{campaign}/")]


def report_tags(instance: dg.DagsterInstance, key: RoundKey) -> Mapping[str, str] | None:
    """The tags of the run that made the newest report of a round; none if that run did not succeed.

    A store that was copied here has reports without runs: they count, and no run had tags.
    """
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("eval_report"), asset_partitions=[str(key)]), limit=1
    ).records
    if not records:
        return {}
    run = instance.get_run_by_id(records[0].run_id)
    return run.tags if run is not None and run.is_success else None


def cancel_queued(instance: dg.DagsterInstance, campaign: str) -> None:
    """Takes the runs of a campaign that have not begun from the queue."""
    for run in runs_in_flight(instance, campaign):
        if run.status is dg.DagsterRunStatus.QUEUED:
            instance.run_coordinator.cancel_run(run.run_id)


def interrupt_launched(instance: dg.DagsterInstance, campaign: str, why: str) -> None:
    """Interrupts the runs of a campaign that the daemon launched; no other process can be reached."""
    for run in runs_in_flight(instance, campaign):
        begun = run.status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
        if begun and GRPC_INFO_TAG in run.tags:
            instance.report_engine_event(why, run)
            instance.run_coordinator.cancel_run(run.run_id)


def stages_left(
    instance: dg.DagsterInstance, job: dg.JobDefinition, store: ArtifactStore, key: RoundKey
) -> tuple[str, ...]:
    """The stages from the first one on that is missing or whose checks have not all run and passed."""
    for place, stage in enumerate(STAGES):
        steps = [stage, *(name for name in job.graph.node_dict if name.startswith(f"{stage}_"))]
        if not (store.has(key, stage) and _succeeded(instance, key, stage, steps)):
            return STAGES[place:]
    return STAGES


def _succeeded(instance: dg.DagsterInstance, key: RoundKey, stage: str, steps: list[str]) -> bool:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(stage), asset_partitions=[str(key)]), limit=1
    ).records
    if not records:
        return False
    stats = {s.step_key: s.status for s in instance.get_run_step_stats(records[0].run_id, steps)}
    return all(stats.get(step) is StepEventStatus.SUCCESS for step in steps)


def failure(events: Sequence[dg.DagsterEvent], key: RoundKey, run_id: str) -> SelfimpError:
    """What went wrong in a run of a round, in the words of the check or step that failed."""
    for event in events:
        if event.event_type is not dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        check = event.asset_check_evaluation_data
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
            fix = check.metadata.get("fix")
            return SelfimpError(
                check.description or "a blocking check failed",
                where=f"{key} {check.asset_key.to_user_string()}: check {check.check_name}",
                fix=str(fix.value)
                if fix
                else "its evidence is in the UI; run the round again when the cause is mended",
            )
    for event in events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.metadata:
                said = {name: str(value.value) for name, value in data.user_failure_data.metadata.items()}
                return SelfimpError(said["what"], where=said["where"], fix=said["fix"])
            if data.error is not None and data.error.cls_name == "DagsterExecutionInterruptedError":
                return SelfimpError(
                    "interrupted",
                    where=f"{key} {event.step_key}",
                    fix="run the same command again: it goes on where this one stopped",
                )
            return SelfimpError(
                str(data.error_display_string).strip(),
                where=f"{key} {event.step_key}",
                fix="this is a fault of the program: please report it with the text above",
            )
    return SelfimpError("the run failed", where=str(key), fix=f"see run {run_id} in the UI")
