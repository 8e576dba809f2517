"""Runs rounds in this process, through the same job and the same instance as the UI."""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.execution.stats import StepEventStatus

from selfimp_dagster.automation.round_job import round_job
from selfimp_dagster.automation.runs import runs_in_flight
from selfimp_dagster.definitions import build_definitions
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.policy import begin, read_policy
from selfimp_dagster.partitions import ROUNDS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

_PROCESS_TAG = "selfimp/process"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def prepare_home(home: Path) -> None:
    """Makes the folder of the instance, with the project's dagster.yaml unless it has one."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        with as_file(files("selfimp_dagster") / "dagster.yaml") as shipped:
            shutil.copyfile(shipped, home / "dagster.yaml")


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The persistent instance that the UI shows too."""
    prepare_home(home)
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        yield instance


def run_round(
    instance: dg.DagsterInstance,
    workbench: WorkbenchResource,
    key: RoundKey,
    parent: RoundKey | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Runs a round to its end, or the stages of it that an interrupted run left over.

    `parent` and `recipe` start a branch, see `lifecycle.policy.begin`; without them a round that was begun
    keeps its own. A round that was begun with another state of its campaign file, from another parent or
    with another recipe starts anew.

    Raises:
        SelfimpError: a round of the campaign is in flight elsewhere, the round cannot begin so, or a stage
            or blocking check failed.
    """
    settle_lost_runs(instance, key.campaign)
    for run in runs_in_flight(instance, key.campaign):
        raise SelfimpError(
            f"a round is in flight already, in run {run.run_id[:8]}",
            where=f"campaign {key.campaign}",
            fix="wait for it, or end it in the UI (Runs), then try again",
        )
    job = build_definitions(workbench).resolve_job_def(round_job.name)
    stages = _stages_left(instance, job, workbench.artifacts, key)
    begun = read_policy(workbench.artifacts, key)[0] if workbench.artifacts.has(key, STAGES[0]) else None
    if begun is not None and parent is None:
        parent = RoundKey.parse(begun.parent) if begun.parent else None
        recipe = recipe or begun.recipe_changes
    beginning = begin(workbench.artifacts, workbench.campaigns_folder, key, parent, recipe)
    if begun is not None and not beginning.is_that_of(begun):
        stages = STAGES  # the campaign was mended, or another branch is asked for: the round starts anew
    instance.add_dynamic_partitions(ROUNDS, [str(key)])
    config: dict[str, Any] = dict(_QUIET)
    if STAGES[0] in stages:
        asked = {"recipe": dict(recipe or {}), "parent": str(parent) if parent else None}
        config["ops"] = {STAGES[0]: {"config": asked}}
    result = job.execute_in_process(
        run_config=config,
        instance=instance,
        partition_key=str(key),
        raise_on_error=False,
        asset_selection=[dg.AssetKey(stage) for stage in (*stages, "round_ledger")],
        tags={_PROCESS_TAG: _this_process()},
    )
    if not result.success:
        raise _failure(result, key)


def settle_lost_runs(instance: dg.DagsterInstance, campaign: str) -> None:
    """Marks runs as failed whose process on this machine is gone: nobody else would notice."""
    for run in runs_in_flight(instance, campaign):
        host, _, process = run.tags.get(_PROCESS_TAG, "").partition(" ")
        if host == socket.gethostname() and not _is_alive(process):
            instance.report_run_failed(run, "The process that ran this round is gone; run the round again.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _stages_left(
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


def _failure(result: dg.ExecuteInProcessResult, key: RoundKey) -> SelfimpError:
    """What went wrong, in the words of the check or step that failed."""
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
            return SelfimpError(
                check.description or "a blocking check failed",
                where=f"{key} {check.asset_key.to_user_string()}: check {check.check_name}",
                fix="its evidence is in the UI; run the round again when the cause is mended",
            )
    for event in result.all_events:
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
    return SelfimpError("the run failed", where=str(key), fix=f"see run {result.run_id} in the UI")


def _this_process() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid}:{process.create_time():.0f}"


def _is_alive(process: str) -> bool:
    pid, _, created = process.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == created
    except psutil.NoSuchProcess:
        return False
