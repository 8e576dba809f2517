"""Nightly improvement: the first round of the night; the sensor chains the others."""

import dagster as dg

from selfimp_dagster.automation.round_job import round_job
from selfimp_dagster.automation.runs import NIGHT_TAG, runs_in_flight
from selfimp_dagster.campaign import SUFFIX, load_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.partitions import ROUNDS
from selfimp_dagster.resources.workbench import WorkbenchResource


@dg.schedule(
    job=round_job,
    cron_schedule="0 2 * * *",
    description="Starts the next round of every campaign that has a `nightly` section.",
)
def nightly_round(
    context: dg.ScheduleEvaluationContext, workbench: WorkbenchResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """One round per campaign that is enabled for nightly running and has none in flight."""
    night = context.scheduled_execution_time.date().isoformat()
    requests, notes = [], []
    for path in sorted(workbench.campaigns_folder.glob(f"*{SUFFIX}")):
        try:
            campaign = load_campaign(path)
            if campaign.nightly is None:
                continue
            following = next_round(workbench.artifacts, workbench.campaigns_folder, campaign.name)
        except SelfimpError as error:
            notes.append(str(error))
            continue
        if runs_in_flight(context.instance, campaign.name):
            notes.append(f"{campaign.name}: a round is in flight.")
        elif not following.decision.proceed:
            notes.append(f"{campaign.name}: {following.decision.reason}")
        else:
            key = str(following.key)
            context.instance.add_dynamic_partitions(ROUNDS, [key])
            # The night is part of the run key: a round that failed last night may be run again.
            tags = {NIGHT_TAG: f"{campaign.name} {night}"}
            requests.append(dg.RunRequest(run_key=f"{night} {key}", partition_key=key, tags=tags))
    for note in notes:
        context.log.info(note)
    return requests or dg.SkipReason(" ".join(notes) or "No campaign has a `nightly` section.")
