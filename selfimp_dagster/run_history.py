"""Where Dagster keeps the runs, their events and the sensors' cursors: in files of the home, or, for a team,
in a PostgreSQL database."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy
import yaml

from selfimp_dagster.errors import SelfimpError

POSTGRES_URL = "SELFIMP_POSTGRES_URL"
"""The variable that holds the URL of the database, password included: it is written nowhere."""

_DRIVER = "postgresql+psycopg2"  # dagster-postgres brings psycopg2; SQLAlchemy's own choice would be psycopg
_FORM = f"{_DRIVER}://USER:PASSWORD@HOST:5432/DATABASE"

_POSTGRES_BLOCK = f"""
# The history of the runs is in the database whose URL is in this variable.
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_URL}
"""


def history_of(home: Path) -> str:
    """Where the history of a home is, for people: without the password.

    Raises:
        SelfimpError: it is in a database that nothing here says how to reach.
    """
    postgres = _postgres(home)
    if postgres is None:
        return str(home / "history")
    url = postgres.get("postgres_url")
    if not isinstance(url, dict):
        return f"the database in {home / 'dagster.yaml'}"
    variable = url["env"]
    if variable not in os.environ:
        raise SelfimpError(
            f"the history of the runs is in PostgreSQL, and {variable} is not set",
            where=str(home / "dagster.yaml"),
            fix=f"set {variable}={_FORM}",
        )
    try:
        parsed = sqlalchemy.make_url(os.environ[variable])
    except (sqlalchemy.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername != _DRIVER:
        raise SelfimpError(
            "not the URL of a PostgreSQL database",
            where=variable,
            fix=f"write it as {_FORM}; in a password, percent-encode @ : / and %",
        )
    return parsed.render_as_string(hide_password=True)


@contextmanager
def reachable_history(home: Path) -> Iterator[None]:
    """What is done here uses the history: a database that goes away meanwhile is an error for people.

    Raises:
        SelfimpError: the database cannot be reached, now or later, or the package for it is missing.
    """
    history = history_of(home)
    if _postgres(home) is None:
        yield
        return
    if find_spec("dagster_postgres") is None:
        raise SelfimpError(
            "the history of the runs is in PostgreSQL, for which a package is missing",
            where=str(home / "dagster.yaml"),
            fix='install "selfimp-dagster[postgres]"',
        )
    try:
        yield
    except Exception as error:
        lost = lost_history(error, history)
        if lost is None:
            raise
        raise lost from error


def lost_history(error: BaseException, where: str = "PostgreSQL") -> SelfimpError | None:
    """What to tell people of an error, if it comes from the connection to the database of the runs."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
            return SelfimpError(
                f"the database of the runs does not answer: {str(cause.orig or cause).strip()}",
                where=where,
                fix="see that it runs and its URL is right, then do the same again: what is finished is kept",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def keep_in_postgres(home: Path) -> None:
    """Lets a home keep its history in the database that SELFIMP_POSTGRES_URL names.

    Raises:
        SelfimpError: its file keeps it elsewhere.
    """
    if _postgres(home) is not None:
        return
    file = home / "dagster.yaml"
    if "storage" in _read(file) or (home / "history").exists():
        raise SelfimpError(
            "this home has a history of runs already, and not in PostgreSQL",
            where=str(file),
            fix="take another SELFIMP_HOME and copy only `artifacts` into it: the results are there",
        )
    changed = file.with_suffix(".new")
    changed.write_text(file.read_text() + _POSTGRES_BLOCK)
    changed.replace(file)


def _postgres(home: Path) -> Mapping[str, Any] | None:
    """The section of the instance's file that says how PostgreSQL is reached."""
    storage = _read(home / "dagster.yaml").get("storage")
    return storage.get("postgres") if isinstance(storage, dict) else None


def _read(file: Path) -> Mapping[str, Any]:
    return yaml.safe_load(file.read_text()) or {}
