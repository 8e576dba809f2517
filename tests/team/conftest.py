"""A team's installation: its history of runs is in a real PostgreSQL."""

from collections.abc import Iterator

import postgres_server
import pytest
from home import Home
from postgres_server import PostgresServer

from selfimp_dagster.rounds_in_process import prepare_home
from selfimp_dagster.run_history import keep_in_postgres


@pytest.fixture(scope="session")
def _running() -> Iterator[PostgresServer]:
    if reason := postgres_server.missing():
        pytest.skip(reason)
    with postgres_server.postgres_server() as server:
        yield server


@pytest.fixture
def postgres(_running: PostgresServer) -> PostgresServer:
    """The server, running: the test before may have stopped it."""
    if not _running.is_up:
        _running.start()
    return _running


@pytest.fixture
def team(home: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A new installation whose history is in a new database."""
    monkeypatch.setenv("SELFIMP_POSTGRES_URL", postgres.new_database())
    prepare_home(home.settings.home)
    keep_in_postgres(home.settings.home)
    return home
