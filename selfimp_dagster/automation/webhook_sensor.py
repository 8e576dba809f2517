"""Notifications: what happens to campaigns, as JSON to a webhook."""

import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from selfimp_dagster.automation.runs import failure
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.evaluation.report import ASSET, read_report
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.oversight import (
    Entry,
    outcome_of,
    read_log,
    read_standing,
    recipe_question,
)
from selfimp_dagster.records import content_id
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey

URL, TOKEN = "SELFIMP_WEBHOOK_URL", "SELFIMP_WEBHOOK_TOKEN"

_EVENTS = 20  # of each kind that a tick looks at
_TIMEOUT = 5.0  # seconds for one message
_TICK = 20.0  # seconds after which a tick leaves the rest to the next one

Message = dict[str, Any]
Cursor = dict[str, Any]


@dg.sensor(
    minimum_interval_seconds=15,
    description=f"Tells a webhook ({URL}) of verdicts, failures, stops, interventions, and what waits.",
)
def webhook_sensor(context: dg.SensorEvaluationContext, workbench: WorkbenchResource) -> dg.SensorResult:
    """Posts a message for all that is new, in order, and goes on at the first that was not delivered.

    Each is delivered at least once; `id` is the same whenever the same message is sent again. When the
    sensor is switched on it begins with what happens from then on.
    """
    url = os.environ.get(URL)
    if not url:
        return dg.SensorResult(
            skip_reason=f"Nobody is told: set {URL} in the environment of the code location.",
            cursor=context.cursor,
        )
    if context.cursor is None:
        start = _now(context.instance, workbench)
        return dg.SensorResult(skip_reason="Tells of what happens from now on.", cursor=json.dumps(start))
    cursor: Cursor = json.loads(context.cursor)
    delivered, trouble = 0, ""
    until = time.monotonic() + _TICK
    for messages, after in _news(context, workbench, cursor):
        for message in messages:
            trouble = _deliver(url, message)
            if trouble:
                break
            delivered += 1
        if trouble:
            break
        cursor = after
        if time.monotonic() > until:
            break
    told = f"Messages delivered: {delivered}." if delivered or trouble else "Nothing new."
    if trouble:
        told += f" The next one is tried again: {trouble}."
    return dg.SensorResult(skip_reason=told, cursor=json.dumps(cursor))


def _now(instance: dg.DagsterInstance, workbench: WorkbenchResource) -> Cursor:
    """The cursor behind all that has happened."""
    reports = instance.fetch_materializations(dg.AssetKey(ASSET), limit=1).records
    failures = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
    return {
        "reports": reports[0].storage_id if reports else 0,
        "failures": failures[0].storage_id if failures else 0,
        "interventions": {
            campaign: len(read_log(workbench.artifacts, campaign)) for campaign in _campaigns(workbench)
        },
    }


def _campaigns(workbench: WorkbenchResource) -> list[str]:
    """Those whose log may have anything."""
    return oversight_log.campaigns(workbench.artifacts)


def _news(
    context: dg.SensorEvaluationContext, workbench: WorkbenchResource, cursor: Cursor
) -> Iterator[tuple[list[Message], Cursor]]:
    """The messages of one event after the other, each time with the cursor behind it."""
    instance = context.instance
    for record in instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(ASSET), after_storage_id=cursor["reports"]),
        limit=_EVENTS,
        ascending=True,
    ).records:
        run = instance.get_run_by_id(record.run_id)
        if run is not None and not run.is_finished:
            break  # its blocking checks may still fail
        cursor = {**cursor, "reports": record.storage_id}
        key = _round(record.partition_key)
        if key is not None and run is not None and run.is_success:
            yield _of_report(workbench, key, run.run_id), cursor
    for record in instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(
            event_type=dg.DagsterEventType.RUN_FAILURE, after_storage_id=cursor["failures"]
        ),
        limit=_EVENTS,
        ascending=True,
    ).records:
        cursor = {**cursor, "failures": record.storage_id}
        run = instance.get_run_by_id(record.run_id)
        key = _round(run.tags.get(PARTITION_NAME_TAG)) if run else None
        if key is not None:
            yield _of_failure(instance, workbench, key, record.run_id), cursor
    for campaign in _campaigns(workbench):
        seen = cursor["interventions"].get(campaign, 0)
        try:
            entries = read_log(workbench.artifacts, campaign)
        except SelfimpError as error:
            context.log.error(str(error))
            continue
        for entry in entries[seen:]:
            cursor = {**cursor, "interventions": {**cursor["interventions"], campaign: entry.sequence + 1}}
            yield _of_intervention(entry), cursor


def _round(partition: str | None) -> RoundKey | None:
    try:
        return RoundKey.parse(partition or "")
    except SelfimpError:
        return None  # a partition that somebody added by hand; no round of it can succeed


def _of_report(workbench: WorkbenchResource, key: RoundKey, run_id: str) -> list[Message]:
    """The verdict on a round, and why no next round starts if none does."""
    store = workbench.artifacts
    try:
        report = read_report(store, key)
        outcome = outcome_of(store, report, read_standing(store, key.campaign))
        following = next_round(store, workbench.campaigns_folder, key.campaign)
    except SelfimpError as error:
        return [_message("failed", key.campaign, str(key), str(error), run_id)]
    verdict = report.verdict
    numbers = {
        **{f"{score.arm}_{score.suite}": score.accuracy for score in report.scores},
        **verdict.model_dump(include={"gain", "gain_low", "gain_high", "p_value", "alpha", "n"}),
        **verdict.model_dump(include={"wins", "losses", "ties"}),
        "tokens": report.summary.tokens,
        "seconds": report.summary.seconds,
    }
    said = " ".join(verdict.reasons)
    messages = [
        _message("verdict", key.campaign, str(key), said, run_id, status=outcome.status, numbers=numbers)
    ]
    if following.key == key.next and not following.decision.proceed:
        waits = outcome.question is not None and outcome.question.answer is None
        kind = "waiting" if waits else "stopped"
        messages.append(_message(kind, key.campaign, str(key), following.decision.reason, run_id))
    return messages


def _of_failure(
    instance: dg.DagsterInstance, workbench: WorkbenchResource, key: RoundKey, run_id: str
) -> list[Message]:
    """What went wrong in a run, or that it ended because its recipe waits for a person."""
    store = workbench.artifacts
    try:
        question = recipe_question(store, key) if store.has(key, STAGES[0]) else None
    except SelfimpError:
        question = None  # what was altered is what the run failed of
    if question is not None and question.answer is None:
        return [_message("waiting", key.campaign, str(key), question.sentence, run_id)]
    events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
    error = failure(events, key, run_id)
    return [_message("failed", key.campaign, str(key), str(error), run_id)]


def _of_intervention(entry: Entry) -> list[Message]:
    said = entry.model_dump(include={"action", "who", "reason", "evidence", "sequence", "hash"})
    return [_message("oversight", entry.campaign, entry.round, entry.sentence, entry.hash, **said)]


def _message(kind: str, campaign: str, round_: str | None, sentence: str, cause: str, **more: Any) -> Message:
    """A message; `cause` is what it tells of, by which it has the same id whenever it is sent."""
    return {
        "id": content_id(kind, campaign, round_, cause),
        "kind": kind,
        "campaign": campaign,
        "round": round_,
        "sentence": sentence,
        **more,
    }


def _deliver(url: str, message: Message) -> str:
    """Posts a message; why it was not delivered, or nothing. Never says the address or the token."""
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # below it writes the address, which may be a secret
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token.strip()}"} if token else {}
    try:
        answer = httpx.post(url, json=message, headers=headers, timeout=_TIMEOUT)
    except httpx.ConnectError as error:
        return str(error)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return f"{type(error).__name__} (see {URL} and {TOKEN})"
    return "" if answer.is_success else f"it answered {answer.status_code} {answer.reason_phrase}"
