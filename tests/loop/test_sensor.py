"""What the sensor and the schedule ask for, on the materializations of real rounds."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.utils import make_new_run_id
from home import Home

from selfimp_dagster.automation.next_round_sensor import next_round_sensor
from selfimp_dagster.automation.nightly_round import nightly_round
from selfimp_dagster.automation.runs import NIGHT_TAG
from selfimp_dagster.partitions import ROUNDS

_NIGHT = datetime(2026, 11, 22, 2, tzinfo=UTC)


@pytest.fixture
def instance(finished: Home) -> Iterator[dg.DagsterInstance]:
    """The instance of the two finished rounds."""
    with finished.instance() as instance:
        yield instance


def _tick(home: Home, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"workbench": home.workbench}
    ) as context:
        result = next_round_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def _asked(result: dg.SensorResult) -> list[str]:
    return [request.partition_key for request in result.run_requests or ()]


def _reason(result: dg.SensorResult) -> str:
    assert not result.run_requests
    assert result.skip_reason is not None
    return result.skip_reason.skip_message or ""


def _tonight(home: Home, instance: dg.DagsterInstance) -> list[dg.RunRequest] | dg.SkipReason:
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=_NIGHT, resources={"workbench": home.workbench}
    ) as context:
        result: list[dg.RunRequest] | dg.SkipReason = nightly_round(context)
    return result


def _add_run(instance: dg.DagsterInstance, partition: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run of a round, as one that was launched elsewhere looks from here."""
    tags = {"dagster/partition": partition}
    return instance.add_run(
        dg.DagsterRun(job_name="round_job", run_id=make_new_run_id(), status=status, tags=tags)
    )


def _set(instance: dg.DagsterInstance, partition: str, event: DagsterEventType) -> None:
    """Puts the run that made a round's report into the state that this event leads to."""
    (run_id,) = instance.get_run_ids(dg.RunsFilter(tags={"dagster/partition": partition}))
    instance.report_dagster_event(DagsterEvent(event.value, "round_job", message=event.value), run_id)


def test_it_asks_for_the_next_round_once(finished: Home, instance: dg.DagsterInstance) -> None:
    first = _tick(finished, instance)
    assert _asked(first) == ["tiny/0002"]
    assert [request.run_key for request in first.run_requests or ()] == ["tiny/0002"]
    (added,) = first.dynamic_partitions_requests or ()
    assert (added.partitions_def_name, list(added.partition_keys)) == ("rounds", ["tiny/0002"])
    second = _tick(finished, instance, first.cursor)
    assert _reason(second) == "No new evaluation report."
    assert second.cursor == first.cursor


def test_a_report_whose_run_still_goes_is_read_again_later(
    finished: Home, instance: dg.DagsterInstance
) -> None:
    _set(instance, "tiny/0001", DagsterEventType.RUN_START)
    waiting = _tick(finished, instance)
    assert "tiny/0001: its run is still going." in _reason(waiting)
    _set(instance, "tiny/0001", DagsterEventType.RUN_SUCCESS)
    assert _asked(_tick(finished, instance, waiting.cursor)) == ["tiny/0002"]


def test_a_report_whose_run_failed_leads_to_nothing(finished: Home, instance: dg.DagsterInstance) -> None:
    _set(instance, "tiny/0001", DagsterEventType.RUN_FAILURE)
    result = _tick(finished, instance)
    assert "tiny/0001: its run did not succeed" in _reason(result)
    assert _reason(_tick(finished, instance, result.cursor)) == "No new evaluation report."


def test_a_lost_cursor_does_not_repeat_a_round_that_has_a_run(
    finished: Home, instance: dg.DagsterInstance
) -> None:
    for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE):
        run = _add_run(instance, "tiny/0002", status)
        assert "tiny/0002 was started already" in _reason(_tick(finished, instance))
        instance.delete_run(run.run_id)
    assert _asked(_tick(finished, instance)) == ["tiny/0002"]


def test_a_partition_without_a_run_is_no_started_round(finished: Home, instance: dg.DagsterInstance) -> None:
    """What a daemon that died between adding the partition and launching the run leaves."""
    instance.add_dynamic_partitions(ROUNDS, ["tiny/0002"])
    assert _asked(_tick(finished, instance)) == ["tiny/0002"]


@pytest.mark.parametrize(
    ("continuation", "reason"),
    [
        ({"target": 0.5}, "Stopped: the target is reached, with an anchor accuracy of 1.000 (target 0.500)."),
        ({"rounds": 2}, "Stopped: all 2 planned rounds are done."),
        ({"patience": 1}, "Stopped: 1 rounds in a row without a promotion (patience 1)."),
        ({"budget": {"tokens": 5}}, "tokens are spent of a budget of 5."),
    ],
    ids=["target", "rounds", "patience", "budget"],
)
def test_it_stops_and_says_why(
    finished: Home, instance: dg.DagsterInstance, continuation: dict[str, object], reason: str
) -> None:
    finished.write_campaign(continuation=continuation)
    assert reason in _reason(_tick(finished, instance))


def test_a_campaign_that_cannot_be_read_stops_nothing_else(
    finished: Home, instance: dg.DagsterInstance
) -> None:
    path = finished.write_campaign()
    path.write_text(path.read_text().replace("sft", "stf"))
    finished.write_campaign("other")
    finished.run("other/0000")
    result = _tick(finished, instance)
    assert _asked(result) == ["other/0001"]
    path.write_text(path.read_text().replace("stf", "sft"))
    assert _asked(_tick(finished, instance)) == ["tiny/0002", "other/0001"], "all reports of one tick count"


def test_a_night_starts_the_next_round_of_enabled_campaigns_only(
    finished: Home, instance: dg.DagsterInstance
) -> None:
    skipped = _tonight(finished, instance)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "No campaign has a `nightly` section."
    finished.write_campaign(nightly={"rounds": 1})
    finished.write_campaign("other")
    for _ in range(2):  # a tick that is repeated asks for the same run
        (request,) = _tonight(finished, instance)
        assert (request.partition_key, request.run_key) == ("tiny/0002", "2026-11-22 tiny/0002")
        assert request.tags[NIGHT_TAG] == "tiny 2026-11-22"
    assert instance.has_dynamic_partition(ROUNDS, "tiny/0002")


def test_a_night_starts_nothing_beside_a_round_in_flight(
    finished: Home, instance: dg.DagsterInstance
) -> None:
    finished.write_campaign(nightly={"rounds": 1})
    for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED):
        run = _add_run(instance, "tiny/0002", status)
        skipped = _tonight(finished, instance)
        assert isinstance(skipped, dg.SkipReason)
        assert skipped.skip_message == "tiny: a round is in flight."
        instance.delete_run(run.run_id)


def test_a_night_respects_the_decision_to_stop(finished: Home, instance: dg.DagsterInstance) -> None:
    finished.write_campaign(nightly={"rounds": 1}, continuation={"rounds": 2})
    skipped = _tonight(finished, instance)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "tiny: Stopped: all 2 planned rounds are done."


@pytest.mark.parametrize(("allowed", "asked"), [(1, []), (2, ["tiny/0002"])])
def test_the_sensor_chains_rounds_until_the_night_is_spent(
    finished: Home, instance: dg.DagsterInstance, allowed: int, asked: list[str]
) -> None:
    finished.write_campaign(nightly={"rounds": allowed})
    (run_id,) = instance.get_run_ids(dg.RunsFilter(tags={"dagster/partition": "tiny/0001"}))
    instance.add_run_tags(run_id, {NIGHT_TAG: "tiny 2026-11-22"})
    result = _tick(finished, instance)
    assert _asked(result) == asked
    if asked:
        (request,) = result.run_requests or ()
        assert request.tags[NIGHT_TAG] == "tiny 2026-11-22"
    else:
        assert "the night (tiny 2026-11-22) has spent its 1 rounds." in _reason(result)
