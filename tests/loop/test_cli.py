"""The command line, as a person meets it."""

from pathlib import Path

import polars as pl
import pytest
import yaml
from home import Home, selfimp
from typer.testing import CliRunner

from selfimp_dagster.cli import app
from selfimp_dagster.records import EVALUATIONS, SAMPLES
from selfimp_dagster.registry import all_methods
from selfimp_dagster.round_key import RoundKey

_COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_commands_are_listed() -> None:
    assert set(_COMMANDS) >= {"init", "run", "status", "methods", "sql", "doctor", "validate", "schema", "ui"}
    result = CliRunner().invoke(app, ["--help"])
    assert all(command in result.output for command in _COMMANDS)


def test_a_new_campaign_explains_itself_and_is_valid(tmp_path: Path) -> None:
    where = {"SELFIMP_HOME": str(tmp_path / "home"), "SELFIMP_CAMPAIGNS": str(tmp_path / "campaigns")}
    made = selfimp(where, "init", "mine")
    assert made.returncode == 0, made.stdout + made.stderr
    assert yaml.safe_load((tmp_path / "campaigns" / "mine.yaml").read_text())["name"] == "mine"
    checked = selfimp(where, "validate", "mine")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "mine.yaml is a valid campaign." in checked.stdout
    assert "Power of a round's test, level 0.0125" in checked.stdout
    assert "seen with 300 items" in checked.stdout
    again = selfimp(where, "init", "mine")
    assert (again.returncode, again.stderr) == (1, "")
    assert "it exists already" in again.stdout


@pytest.mark.parametrize("name", ["../mine", "Mine", "a b", ""])
def test_a_campaign_is_not_made_under_a_name_that_rounds_cannot_have(tmp_path: Path, name: str) -> None:
    where = {"SELFIMP_HOME": str(tmp_path / "home"), "SELFIMP_CAMPAIGNS": str(tmp_path / "campaigns")}
    made = selfimp(where, "init", name)
    assert made.returncode == 1
    assert "name: " in made.stdout
    assert "Traceback" not in made.stderr
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_bad_campaign_is_one_clear_message(home: Home) -> None:
    path = home.write_campaign(pools={"train": "many"})
    result = selfimp(home.environment, "validate", "tiny")
    assert (result.returncode, result.stderr) == (1, "")
    assert f"{path}: pools.train: Input should be a valid integer" in result.stdout
    assert "->" in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.parametrize("command", ["validate", "run", "status"])
def test_a_campaign_that_is_not_there_is_one_clear_message(home: Home, command: str) -> None:
    result = selfimp(home.environment, command, "nowhere")
    if command == "status":
        assert "No round is finished yet" in result.stdout
        return
    assert result.returncode == 1
    assert "nowhere.yaml: cannot read the campaign: No such file or directory" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_methods_lists_all_of_them(home: Home) -> None:
    listed = selfimp(home.environment, "methods").stdout
    for method in all_methods():
        assert method.name in listed
        assert method.paper in listed


def test_sql_counts_what_is_in_the_store(two_rounds: Home) -> None:
    counted = {
        "samples": sum(
            two_rounds.store.open(RoundKey("tiny", n), "generated_corpus").table("samples", SAMPLES).height
            for n in (0, 1)
        ),
        "evaluations": sum(
            two_rounds.store.open(RoundKey("tiny", n), "eval_report").table("evaluations", EVALUATIONS).height
            for n in (0, 1)
        ),
        "ledger": 2,
    }
    query = " UNION ALL ".join(f"SELECT '{view}' AS v, count(*) AS n FROM {view}" for view in counted)
    result = selfimp(two_rounds.environment, "sql", query)
    assert result.returncode == 0, result.stdout
    for view, number in counted.items():
        assert any(view in line and f" {number} " in line for line in result.stdout.splitlines()), view


def test_sql_rows_know_their_round(two_rounds: Home) -> None:
    from selfimp_dagster.lineage.views import connect

    rows = connect(two_rounds.store).execute("SELECT DISTINCT in_round FROM training ORDER BY 1").fetchall()
    assert rows == [("tiny/0000",), ("tiny/0001",)]


def test_bad_sql_is_one_clear_message(two_rounds: Home) -> None:
    result = selfimp(two_rounds.environment, "sql", "SELECT * FROM nothing")
    assert (result.returncode, result.stderr) == (1, "")
    assert "nothing" in result.stdout


def test_sql_lists_its_views(two_rounds: Home) -> None:
    listed = selfimp(two_rounds.environment, "sql").stdout
    assert all(
        view in listed for view in ("tasks", "samples", "rewards", "evaluations", "ledger", "in_round")
    )


def test_status_says_what_was_and_what_comes_next(two_rounds: Home) -> None:
    result = selfimp(two_rounds.environment, "status", "tiny")
    assert result.returncode == 0, result.stderr
    ledger = pl.read_parquet(two_rounds.store.folder / "ledger.parquet")
    assert all(key in result.stdout for key in ledger["round"])
    assert "tiny: tiny/0002 next. Proceeds: 2 of 3 planned rounds are done" in result.stdout


def test_the_doctor_examines_this_machine(home: Home) -> None:
    result = selfimp(home.environment, "doctor")
    assert result.returncode in (0, 1), result.stderr
    for subject in ("cores", "memory", "disk", "engine", "default model", "campaigns"):
        assert subject in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_run_stops_with_the_reason_when_the_plan_is_done(finished: Home) -> None:
    finished.write_campaign(continuation={"rounds": 2})
    result = selfimp(finished.environment, "run", "tiny", "--rounds", "5")
    assert result.returncode == 0, result.stderr
    assert "Stopped: all 2 planned rounds are done." in result.stdout
    assert not finished.store.has(RoundKey("tiny", 2), "incumbent_policy")
