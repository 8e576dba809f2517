"""The store as SQL: every view and every question of docs/lineage.md, asked of two real rounds."""

import csv
import io
import json
import re
from pathlib import Path

import polars as pl
import pytest
from home import Home
from typer.testing import CliRunner

from selfimp_dagster.cli import app
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import LEDGER, read_ledger
from selfimp_dagster.lineage.views import LISTING, ask, connect
from selfimp_dagster.records import SAMPLES, TRAINING
from selfimp_dagster.round_key import RoundKey


def _names(code: str) -> list[str]:
    return re.findall(r"`([^`]+)`", code)


_PAGE = (Path(__file__).parents[2] / "docs" / "lineage.md").read_text(encoding="utf-8")
_SECTION = re.compile(r"^### (`.*`)$([\s\S]*?)(?=^##)", re.M)
_COLUMN_ROW = re.compile(r"^\| (`[^|]+`) \|", re.M)
_QUESTION = re.compile(r"^### (\d+\. .*?)$.*?```sql\n(.*?)```\n\nColumns: (.*?)$", re.M | re.S)
_QUESTIONS = {title: (query, _names(columns)) for title, query, columns in _QUESTION.findall(_PAGE)}
_NOT_IN_TWO_ROUNDS = {"9. Which replayed rows come from rounds that were rejected?"}


def test_the_views_and_their_columns_are_the_documented_ones(two_rounds: Home) -> None:
    documented = {
        view: {name for cell in _COLUMN_ROW.findall(text) for name in _names(cell)}
        for views, text in _SECTION.findall(_PAGE)
        for view in _names(views)
    }
    listed = {view: set(columns.split(", ")) for view, columns in ask(two_rounds.store, LISTING).rows()}
    assert documented == {view: columns - {"in_round"} for view, columns in listed.items()}


def test_there_are_ten_questions() -> None:
    assert len(_QUESTIONS) == 10


@pytest.mark.parametrize("title", _QUESTIONS)
def test_a_question_is_answered_with_the_documented_columns(two_rounds: Home, title: str) -> None:
    query, columns = _QUESTIONS[title]
    answer = ask(two_rounds.store, query)
    assert list(answer.columns) == columns
    assert bool(list(answer.rows())) == (title not in _NOT_IN_TWO_ROUNDS)


def test_replayed_rows_of_a_rejected_round_are_found(finished: Home) -> None:
    finished.write_campaign(recipe={"optimization": {"replay": 1.0}})
    finished.run("tiny/0002")
    (query, _) = _QUESTIONS["9. Which replayed rows come from rounds that were rejected?"]
    training = finished.store.open(RoundKey("tiny", 2), "checkpoint").table("training", TRAINING)
    replayed = training.filter(origin_round="tiny/0001").height
    rows = list(ask(finished.store, query).rows())
    assert [row[:3] for row in rows] == [("tiny/0002", "tiny/0001", replayed)]


def test_the_example_beside_the_views_can_be_asked(two_rounds: Home) -> None:
    (example,) = re.findall(r"```sql\n(-- what led.*?)```", _PAGE, re.S)
    assert [row[:3] for row in ask(two_rounds.store, example).rows()] == [
        ("tiny/0001", 1, "tiny/0000"),
        ("tiny/0001", 0, "tiny/0001"),
    ]


def test_weights_are_counted_in_updates_from_the_base_model(two_rounds: Home) -> None:
    connection = connect(two_rounds.store)
    rows = connection.execute("SELECT trained_in, updates FROM policies ORDER BY updates").fetchall()
    assert rows == [(None, 0), ("tiny/0000", 1), ("tiny/0001", 2)]
    started = connection.execute("SELECT round, parent, weights_round, promoted FROM rounds").fetchall()
    assert started == [("tiny/0000", None, None, True), ("tiny/0001", "tiny/0000", "tiny/0000", False)]


def test_artifacts_tell_what_the_manifests_say(two_rounds: Home) -> None:
    rows = connect(two_rounds.store).execute("SELECT round, asset, data_version, facts FROM artifacts")
    for round_, asset, data_version, facts in rows.fetchall():
        artifact = two_rounds.store.open(RoundKey.parse(round_), asset)
        assert (data_version, json.loads(facts)) == (artifact.data_version, artifact.facts)


def test_the_ledger_is_read_from_the_reports_where_it_was_not_written(finished: Home) -> None:
    path = finished.store.folder / "ledger.parquet"
    written = connect(finished.store).execute("FROM ledger").fetchall()
    path.unlink()
    assert connect(finished.store).execute("FROM ledger").fetchall() == written
    read_ledger(finished.store).head(1).write_parquet(path)
    assert connect(finished.store).execute("FROM ledger").fetchall() == written, "it lacks a round"
    pl.DataFrame({"round": ["tiny/0000", "tiny/0001"]}).write_parquet(path)
    assert connect(finished.store).execute("FROM ledger").fetchall() == written, "it lacks columns"
    path.write_bytes(b"no table")
    assert connect(finished.store).execute("FROM ledger").fetchall() == written, "it cannot be read"


def test_an_empty_store_has_every_view(home: Home, two_rounds: Home) -> None:
    views = {view for view, _ in ask(two_rounds.store, LISTING).rows()}
    connection = connect(home.store)
    for view in views:
        assert connection.execute(f"FROM {view}").fetchall() == []
    assert set(LEDGER) == {column[0] for column in connection.execute("FROM ledger").description or ()}


def test_a_query_that_names_rounds_opens_their_files_alone(two_rounds: Home) -> None:
    plan = connect(two_rounds.store).execute(
        "EXPLAIN ANALYZE SELECT count(*) FROM samples WHERE in_round IN ('tiny/0001')"
    )
    assert re.search(r"Total Files Read: 1\b", plan.fetchall()[0][1])


def test_all_rows_come_as_csv_json_or_parquet(
    two_rounds: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in two_rounds.environment.items():
        monkeypatch.setenv(name, value)
    samples = pl.concat(
        two_rounds.store.open(RoundKey("tiny", number), "generated_corpus").table("samples", SAMPLES)
        for number in (0, 1)
    )
    query = "SELECT sample_id, messages, parent_sample_id FROM samples ORDER BY in_round, sample_id"
    run = CliRunner().invoke
    lines = list(csv.DictReader(io.StringIO(run(app, ["sql", query, "--csv"]).stdout)))
    objects = json.loads(run(app, ["sql", query, "--json"]).stdout)
    target = tmp_path / "rows.parquet"
    assert run(app, ["sql", query + ";", "--parquet", str(target)]).exit_code == 0
    table = pl.read_parquet(target)
    assert len(lines) == len(objects) == table.height == samples.height > 200
    assert [line["sample_id"] for line in lines] == table["sample_id"].to_list()
    assert [json.loads(line["messages"]) for line in lines] == table["messages"].to_list()
    assert objects == table.to_dicts()
    assert json.loads(run(app, ["sql", "FROM samples LIMIT 0", "--json"]).stdout) == []


def test_a_long_result_is_cut_with_a_note(two_rounds: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in two_rounds.environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["sql", "SELECT 'row ' || range FROM range(201)"])
    assert "row 199" in result.stdout
    assert "row 200" not in result.stdout
    assert "first 200 rows" in result.stderr


@pytest.mark.parametrize("query", ["SELECT * FROM nothing", "SELEKT 1", "SELECT 1 / 'a'"])
def test_a_wrong_query_is_one_clear_message(two_rounds: Home, query: str, tmp_path: Path) -> None:
    with pytest.raises(SelfimpError):
        ask(two_rounds.store, query)
    with pytest.raises(SelfimpError):
        ask(two_rounds.store, query, into=tmp_path / "rows.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_file_that_cannot_be_written_is_one_clear_message(two_rounds: Home, tmp_path: Path) -> None:
    with pytest.raises(SelfimpError, match="nowhere"):
        ask(two_rounds.store, "FROM samples", into=tmp_path / "nowhere" / "rows.parquet")
