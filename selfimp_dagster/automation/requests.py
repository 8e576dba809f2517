"""The runs that a sensor asks for: the round that follows a finished one, or what is left of a round."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from selfimp_dagster.automation.round_job import round_job
from selfimp_dagster.automation.runs import NIGHT_TAG, stages_left
from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


def following_round(
    instance: dg.DagsterInstance,
    workbench: WorkbenchResource,
    finished: RoundKey,
    tags: Mapping[str, str],
    run_key: str | None = None,
) -> dg.RunRequest | str:
    """The run that a finished round leads to, or why it leads to none.

    Args:
        instance: where runs are looked up.
        workbench: where campaigns and artifacts are.
        finished: a round whose run has succeeded.
        tags: of that run; the night that it belongs to is handed on.
        run_key: by which the sensor knows the run again; the name of the round unless given.
    """
    following = next_round(workbench.artifacts, workbench.campaigns_folder, finished.campaign)
    if following.key != finished.next:
        return f"it is not the newest round: {following.key} comes next."
    if not following.decision.proceed:
        return following.decision.reason
    night = tags.get(NIGHT_TAG)
    if night is not None:
        campaign = load_campaign(workbench.campaigns_folder / f"{finished.campaign}.yaml")
        spent = instance.get_runs_count(dg.RunsFilter(job_name=round_job.name, tags={NIGHT_TAG: night}))
        allowed = campaign.nightly.rounds if campaign.nightly else 0
        if spent >= allowed:
            return f"the night ({night}) has spent its {allowed} rounds."
    return dg.RunRequest(
        run_key=run_key or str(following.key),
        partition_key=str(following.key),
        tags={NIGHT_TAG: night} if night is not None else {},
    )


def rest_of_round(
    instance: dg.DagsterInstance,
    workbench: WorkbenchResource,
    job: dg.JobDefinition,
    key: RoundKey,
    run_key: str,
) -> dg.RunRequest:
    """A run of the stages that a round has left, started and configured as its last run was."""
    stages = stages_left(instance, job, workbench.artifacts, key)
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION_NAME_TAG: str(key)}), limit=1)
    last: Mapping[str, Any] = runs[0].run_config if runs else {}
    given = last.get("ops", {})
    ops: dict[str, Any] = {stage: given[stage] for stage in stages if stage in given}
    if STAGES[0] in stages and workbench.artifacts.has(key, STAGES[0]):
        policy, _ = read_policy(workbench.artifacts, key)
        ops[STAGES[0]] = {"config": {"parent": policy.parent, "recipe": policy.recipe_changes}}
    night = {NIGHT_TAG: runs[0].tags[NIGHT_TAG]} if runs and NIGHT_TAG in runs[0].tags else {}
    return dg.RunRequest(
        run_key=run_key,
        partition_key=str(key),
        run_config={"ops": ops},
        asset_selection=[dg.AssetKey(asset) for asset in (*stages, "round_ledger")],
        tags=night,
    )
