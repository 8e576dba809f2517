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

from selfimp_dagster.automation.round_job import round_job
from selfimp_dagster.automation.runs import failure, runs_in_flight, stages_left
from selfimp_dagster.definitions import build_definitions
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.policy import begin, read_policy
from selfimp_dagster.partitions import ROUNDS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.run_history import reachable_history

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
    """The persistent instance that the UI shows too.

    Raises:
        SelfimpError: the database that keeps its history cannot be reached, or goes away meanwhile.
    """
    prepare_home(home)
    os.environ["DAGSTER_HOME"] = str(home)
    with reachable_history(home), dg.DagsterInstance.get() as instance:
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
    stages = stages_left(instance, job, workbench.artifacts, key)
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
        raise failure(result.all_events, key, result.run_id)


def settle_lost_runs(instance: dg.DagsterInstance, campaign: str) -> None:
    """Marks runs as failed that no process on this machine goes on with: nobody else would notice.

    Those of this very process are lost too: it runs one round at a time, and the database of the runs went
    away in the middle of that one.
    """
    this = _this_process()
    for run in runs_in_flight(instance, campaign):
        tag = run.tags.get(_PROCESS_TAG, "")
        host, _, process = tag.partition(" ")
        if tag == this or (host == socket.gethostname() and not _is_alive(process)):
            instance.report_run_failed(run, "What ran this round is gone; run the round again.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _this_process() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid}:{process.create_time():.0f}"


def _is_alive(process: str) -> bool:
    pid, _, created = process.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == created
    except psutil.NoSuchProcess:
        return False
