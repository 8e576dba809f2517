"""The history of the runs in a real PostgreSQL: rounds, the sensor's cursor, and a server that goes away."""

import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from home import Home
from postgres_server import PostgresServer

from selfimp_dagster.automation.next_round_sensor import next_round_sensor
from selfimp_dagster.cli import app
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.sampling import DurableSampler
from selfimp_dagster.records import SAMPLES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import prepare_home
from selfimp_dagster.run_history import POSTGRES_URL, history_of, keep_in_postgres, lost_history

_KEY = RoundKey("tiny", 0)
_SAMPLES = 48 * 4
_RUN = dg.DagsterRunStatus


def _statuses(home: Home) -> list[dg.DagsterRunStatus]:
    """Of all runs, the newest first."""
    with home.instance() as instance:
        return [run.status for run in instance.get_runs()]


def _when_it_samples(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    """Does something once, when the stage begins to sample its corpus."""
    sample = DurableSampler.sample

    def once(self: DurableSampler, *arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(DurableSampler, "sample", sample)
        do()
        return sample(self, *arguments, **named)

    monkeypatch.setattr(DurableSampler, "sample", once)


def _tick(home: Home, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"workbench": home.workbench}
    ) as context:
        result = next_round_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def _sensor_state(cursor: str | None) -> InstigatorState:
    """The state that the daemon keeps of the sensor."""
    target = LoadableTargetOrigin(module_name="selfimp_dagster.definitions")
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, "selfimp_dagster")
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(location, "__repository__"), next_round_sensor.name
    )
    data = SensorInstigatorData(min_interval=15, cursor=cursor)
    return InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)


def test_rounds_and_the_cursor_are_in_the_database_and_outlive_its_restart(
    team: Home, postgres: PostgresServer
) -> None:
    team.run(str(_KEY))
    assert not (team.settings.home / "history").exists()
    with team.instance() as instance:
        first = _tick(team, instance, None)
        assert [request.partition_key for request in first.run_requests or ()] == ["tiny/0001"]
        state = _sensor_state(first.cursor)
        instance.add_instigator_state(state)
    postgres.stop()
    postgres.start()
    with team.instance() as instance:
        (run,) = instance.get_runs()
        assert run.status is _RUN.SUCCESS
        assert instance.get_dynamic_partitions("rounds") == [str(_KEY)]
        kept = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        assert kept is not None
        data = kept.instigator_data
        assert isinstance(data, SensorInstigatorData)
        assert data.cursor == first.cursor
        assert not _tick(team, instance, data.cursor).run_requests


def test_a_restart_in_the_middle_of_a_round_is_waited_for(
    team: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    back: list[threading.Timer] = []

    def restart() -> None:
        postgres.stop()
        back.append(threading.Timer(1.0, postgres.start))
        back[0].start()

    _when_it_samples(monkeypatch, restart)
    team.run(str(_KEY))
    assert back, "it was not restarted"
    back[0].join()
    assert _statuses(team) == [_RUN.SUCCESS]
    assert team.store.has(_KEY, "eval_report")


def test_without_its_database_a_round_ends_with_what_to_do_and_is_finished_later(
    team: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # dagster-postgres tries six times, in six seconds; here at once.
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **named: 0.0)
    _when_it_samples(monkeypatch, postgres.stop)
    with pytest.raises(SelfimpError, match="the database of the runs does not answer") as caught:
        team.run(str(_KEY))
    assert "127.0.0.1" in caught.value.where
    assert "only-for-tests" not in str(caught.value)
    assert not team.store.has(_KEY, "eval_report")
    postgres.start()
    team.run(str(_KEY))
    assert _statuses(team) == [_RUN.SUCCESS, _RUN.FAILURE]
    samples = team.store.open(_KEY, "generated_corpus").table("samples", SAMPLES)
    assert samples.height == samples["sample_id"].n_unique() == _SAMPLES
    assert team.store.has(_KEY, "eval_report")


def test_a_step_that_lost_the_database_says_so_when_it_is_back(
    team: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_back(error: BaseException) -> SelfimpError | None:
        postgres.start()
        return lost_history(error)

    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **named: 0.0)
    monkeypatch.setattr("selfimp_dagster.presentation.lost_history", and_back)
    _when_it_samples(monkeypatch, postgres.stop)
    with pytest.raises(SelfimpError, match="the database of the runs does not answer") as caught:
        team.run(str(_KEY))
    assert "what is finished is kept" in caught.value.fix
    with team.instance() as instance:
        (run,) = instance.get_runs()
        shown = [
            record.dagster_event.step_failure_data
            for record in instance.all_logs(run.run_id)
            if record.dagster_event is not None and record.dagster_event.is_step_failure
        ]
    assert run.status is _RUN.FAILURE
    (data,) = shown
    assert data.user_failure_data is not None
    assert "the database of the runs does not answer" in (data.user_failure_data.description or "")


@pytest.mark.parametrize(
    "words", [["run", "tiny"], ["instance"], ["ui", "--port", "1"]], ids=lambda words: words[0]
)
def test_a_server_that_is_down_is_an_error_for_people(
    team: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **named: 0.0)
    for name, value in team.environment.items():
        monkeypatch.setenv(name, value)
    postgres.stop()
    with pytest.raises(SelfimpError, match="the database of the runs does not answer") as caught:
        app(words, standalone_mode=False)
    assert "see that it runs" in caught.value.fix


def test_a_wrong_password_is_said_and_not_shown(
    team: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **named: 0.0)
    monkeypatch.setenv(POSTGRES_URL, postgres.url("postgres").replace("only-for-tests", "guessed"))
    with pytest.raises(SelfimpError, match="password authentication failed") as caught, team.instance():
        pass
    assert "guessed" not in str(caught.value)


@pytest.fixture
def postgres_home(tmp_path: Path) -> Path:
    """A home that keeps its history in a database; no server is needed to say so."""
    prepare_home(tmp_path / "home")
    keep_in_postgres(tmp_path / "home")
    return tmp_path / "home"


def test_a_missing_url_is_named(postgres_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POSTGRES_URL, raising=False)
    with pytest.raises(SelfimpError, match=f"{POSTGRES_URL} is not set") as caught:
        history_of(postgres_home)
    assert caught.value.where == str(postgres_home / "dagster.yaml")


@pytest.mark.parametrize(
    "url", ["", "localhost", "postgresql://me:secret@there/db", "mysql://me:secret@there/db"]
)
def test_another_url_is_refused(postgres_home: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(POSTGRES_URL, url)
    with pytest.raises(SelfimpError, match="not the URL of a PostgreSQL database") as caught:
        history_of(postgres_home)
    assert "secret" not in str(caught.value)


def test_a_home_is_told_once(postgres_home: Path) -> None:
    before = (postgres_home / "dagster.yaml").read_text()
    keep_in_postgres(postgres_home)
    assert (postgres_home / "dagster.yaml").read_text() == before


def test_a_home_with_runs_does_not_lose_sight_of_them(home: Home) -> None:
    with home.instance():
        before = (home.settings.home / "dagster.yaml").read_text()
    with pytest.raises(SelfimpError, match="has a history of runs already"):
        keep_in_postgres(home.settings.home)
    assert (home.settings.home / "dagster.yaml").read_text() == before
