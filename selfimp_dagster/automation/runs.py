"""Which rounds have runs: read from the instance, by the partition tag that Dagster itself sets."""

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG

from selfimp_dagster.round_key import RoundKey

NIGHT_TAG = "selfimp/night"
"""The campaign and night that a run belongs to; runs that a person started have none."""


def has_run(instance: dg.DagsterInstance, key: RoundKey) -> bool:
    """Whether any run of this round was ever launched."""
    return bool(instance.get_run_ids(dg.RunsFilter(tags={PARTITION_NAME_TAG: str(key)}), limit=1))


def runs_in_flight(instance: dg.DagsterInstance, campaign: str) -> list[dg.DagsterRun]:
    """Runs of any round of a campaign that are queued or under way, newest first."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[*IN_PROGRESS_RUN_STATUSES, dg.DagsterRunStatus.QUEUED]))
    return [run for run in runs if run.tags.get(PARTITION_NAME_TAG, "").startswith(f"{campaign}/")]
