"""What follows from the interventions of people: rounds that waited start, runs of killed campaigns end."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

from selfimp_dagster.automation.requests import following_round, rest_of_round
from selfimp_dagster.automation.round_job import round_job
from selfimp_dagster.automation.runs import cancel_queued, interrupt_launched, report_tags, runs_in_flight
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.oversight import Entry, Standing, read_log, standing_after
from selfimp_dagster.partitions import rounds
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey

_GRACE = timedelta(seconds=10)  # for the stages of a killed campaign to end by themselves


@dg.sensor(
    job=round_job,
    minimum_interval_seconds=15,
    description="Starts what people have approved or resumed, and ends the runs of what they killed.",
)
def oversight_sensor(context: dg.SensorEvaluationContext, workbench: WorkbenchResource) -> dg.SensorResult:
    """Reads what is new in the logs of interventions, and does what it leads to: one run a campaign at most.

    The cursor counts the entries that were seen. While a run of the campaign is in flight they stay unseen.
    The run key is the hash of the entry, and whether a round has begun is read from the store: a daemon
    that dies at any point of a tick neither forgets an intervention nor carries it out twice, and a run that
    was refused because nobody had decided yet is no beginning.
    """
    seen: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
    notes: list[str] = []
    requests: list[dg.RunRequest] = []
    for campaign in oversight_log.campaigns(workbench.artifacts):
        try:
            entries = read_log(workbench.artifacts, campaign)
            new = entries[seen.get(campaign, 0) :]
            if not new:
                continue
            _end_runs(context.instance, standing_after(entries))
            if runs_in_flight(context.instance, campaign):
                notes.append(f"{campaign}: a run is still going.")
                continue
            led_to = [_request(context, workbench, entry) for entry in new]
        except SelfimpError as error:
            notes.append(f"{campaign}: {error}")
            continue
        seen[campaign] = len(entries)
        notes += [f"{campaign}: {note}" for note in led_to if isinstance(note, str)]
        requests += [request for request in led_to if isinstance(request, dg.RunRequest)][:1]
    for note in notes:
        context.log.info(note)
    keys = [str(request.partition_key) for request in requests]
    return dg.SensorResult(
        dynamic_partitions_requests=[rounds.build_add_request(keys)] if keys else [],
        run_requests=requests,
        skip_reason=None if requests else " ".join(notes) or "No new intervention.",
        cursor=json.dumps(seen, sort_keys=True),
    )


def _end_runs(instance: dg.DagsterInstance, standing: Standing) -> None:
    """Ends what is left of a killed campaign's runs.

    Stages end by themselves and say who killed them. A run that waits for its place in a pool, or is not at
    a stage that looks, is interrupted once they have had the time.
    """
    entry = standing.halted_by
    if entry is None or entry.action != "kill":
        return
    cancel_queued(instance, entry.campaign)
    if datetime.now(UTC) - datetime.fromisoformat(entry.at) > _GRACE:
        interrupt_launched(instance, entry.campaign, entry.sentence)


def _request(
    context: dg.SensorEvaluationContext, workbench: WorkbenchResource, entry: Entry
) -> dg.RunRequest | str:
    """The run that an intervention leads to as things are now, or why it leads to none."""
    if entry.action in ("pause", "kill"):
        return entry.sentence
    store = workbench.artifacts
    following = next_round(store, workbench.campaigns_folder, entry.campaign)
    if not following.decision.proceed:
        return following.decision.reason
    begun = list(store.rounds(entry.campaign))
    if not begun:
        return "no round was started yet: start the first one from the UI or the CLI."
    about_recipe = entry.evidence is not None and entry.evidence.matter == "recipe"
    if about_recipe and (entry.action == "refuse" or entry.round != str(following.key)):
        return entry.sentence
    if about_recipe or (entry.action == "resume" and following.key in begun):
        assert context.repository_def is not None
        job = context.repository_def.get_job(round_job.name)
        return rest_of_round(context.instance, workbench, job, following.key, run_key=entry.hash)
    finished = RoundKey.parse(entry.round) if entry.round else begun[-1]
    tags = report_tags(context.instance, finished)
    if tags is None:
        return f"the run of {finished} did not succeed, so its report counts for nothing."
    return following_round(context.instance, workbench, finished, tags, run_key=entry.hash)
