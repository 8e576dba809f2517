"""Continuation: a finished round leads to the next one, or to the reason why not."""

import dagster as dg

from selfimp_dagster.automation.requests import following_round
from selfimp_dagster.automation.round_job import round_job
from selfimp_dagster.automation.runs import has_run
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.partitions import rounds
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey

_REPORTS_PER_TICK = 20


@dg.sensor(
    job=round_job,
    minimum_interval_seconds=15,
    description="Starts the next round of a campaign when a round's evaluation says so.",
)
def next_round_sensor(context: dg.SensorEvaluationContext, workbench: WorkbenchResource) -> dg.SensorResult:
    """Reads the evaluation reports since the last tick, in order, and decides on each campaign.

    A report counts once its run has succeeded: it is recorded before its blocking checks may fail.
    The run key is the round, and whether a round was started is read from its runs, not from its
    partition: a daemon that dies between the two neither forgets a round nor starts it twice.
    """
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey("eval_report"),
            after_storage_id=int(context.cursor) if context.cursor else None,
        ),
        limit=_REPORTS_PER_TICK,
        ascending=True,
    ).records
    cursor, notes = context.cursor, list[str]()
    requests: dict[RoundKey, dg.RunRequest] = {}
    for record in records:
        run = context.instance.get_run_by_id(record.run_id)
        if run is not None and not run.is_finished:
            notes.append(f"{record.partition_key}: its run is still going.")
            break  # the same report is read again at the next tick
        cursor = str(record.storage_id)
        if run is None or not run.is_success:
            notes.append(
                f"{record.partition_key}: its run did not succeed, so its report counts for nothing."
            )
            continue
        try:
            finished = RoundKey.parse(str(record.partition_key))
            request = following_round(context.instance, workbench, finished, run.tags)
            if isinstance(request, dg.RunRequest) and has_run(context.instance, finished.next):
                request = (
                    f"{finished.next} was started already; if it failed, run it again from the UI or the CLI."
                )
        except SelfimpError as error:
            notes.append(f"{record.partition_key}: {error}")
            continue
        if isinstance(request, str):
            notes.append(f"{record.partition_key}: {request}")
        else:
            requests[RoundKey.parse(str(request.partition_key))] = request
    for note in notes:
        context.log.info(note)
    return dg.SensorResult(
        dynamic_partitions_requests=[rounds.build_add_request([str(key) for key in requests])]
        if requests
        else [],
        run_requests=list(requests.values()),
        skip_reason=None if requests else " ".join(notes) or "No new evaluation report.",
        cursor=cursor,
    )
