"""A store that is incomplete, moved or damaged: what is known is told, and what is missing is named."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
from home import Home
from typer.testing import CliRunner, Result

from selfimp_dagster.cli import app
from selfimp_dagster.console import print_gaps
from selfimp_dagster.doctor import examine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.comparison import compare
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lineage.inventory import Gap, take_inventory, verified
from selfimp_dagster.lineage.trace import trace
from selfimp_dagster.lineage.views import ask
from selfimp_dagster.records import SAMPLES, SELECTION, TRAINING
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import FORMAT, MANIFEST

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


@pytest.fixture
def training_row(two_rounds: Home) -> str:
    return str(two_rounds.store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0])


def manifest(home: Home, asset: str, key: RoundKey = _FIRST) -> Path:
    return home.store.folder / str(key) / asset / MANIFEST


def table(home: Home, asset: str, name: str, key: RoundKey = _FIRST) -> Path:
    return home.store.open(key, asset, verify=False).folder / f"{name}.parquet"


def gaps(home: Home) -> list[tuple[str, str | None, str]]:
    return [(gap.round, gap.asset, gap.what) for gap in take_inventory(home.store).gaps]


def rounds_of(home: Home, view: str) -> set[str]:
    return {round_ for (round_,) in ask(home.store, f"SELECT DISTINCT in_round FROM {view}").rows()}


def run(home: Home, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for name, value in {**home.environment, "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(app, arguments)


def test_a_whole_store_has_no_gaps(two_rounds: Home) -> None:
    inventory = take_inventory(two_rounds.store)
    assert inventory.gaps == ()
    assert verified(inventory) == inventory
    assert [str(key) for key in inventory.artifacts] == ["tiny/0000", "tiny/0001"]


def test_a_store_that_was_moved_says_what_it_said(
    finished: Home, training_row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trace(finished.store, training_row)
    ledger, compared = read_ledger(finished.store), compare(finished.store, _FIRST, _SECOND)
    artifacts = ask(finished.store, "FROM artifacts ORDER BY ALL")
    rows = list(artifacts.rows())
    target = tmp_path / "else where [2]" / "it's"
    target.parent.mkdir()
    shutil.move(finished.folder, target)
    moved = Home(target, finished.model)
    assert take_inventory(moved.store).gaps == ()
    assert trace(moved.store, training_row) == before
    assert read_ledger(moved.store).equals(ledger)
    assert compare(moved.store, _FIRST, _SECOND) == compared
    assert list(ask(moved.store, "FROM artifacts ORDER BY ALL").rows()) == rows
    assert rounds_of(moved, "samples") == {"tiny/0000", "tiny/0001"}
    assert "tiny/0002 next" in run(moved, monkeypatch, "status", "tiny").stdout
    moved.run("tiny/0002")


def test_no_path_of_the_installation_is_in_the_store(finished: Home, training_row: str) -> None:
    trace(finished.store, training_row)
    files = [path for path in finished.store.folder.rglob("*") if path.is_file()]
    place = str(finished.folder).encode()
    assert len(files) > 40
    assert [path for path in files if place in path.read_bytes()] == []


def test_a_round_that_was_begun_is_unfinished_and_no_damage(finished: Home, training_row: str) -> None:
    with finished.instance() as instance:
        finished.materialize(instance, "tiny/0002", "incumbent_policy")
    finished.store.draft(RoundKey("tiny", 2), "generated_corpus", parents={}, config={})
    ((round_, asset, what),) = gaps(finished)
    assert (round_, asset) == ("tiny/0002", None)
    assert what.startswith("not finished: generated_corpus, selected_subset")
    assert take_inventory(finished.store).damage == ()
    assert [gap.round for gap in trace(finished.store, training_row).gaps] == ["tiny/0002"]
    assert list(ask(finished.store, "SELECT promoted FROM rounds WHERE number = 2").rows()) == [(None,)]


def test_a_manifest_that_is_gone_is_named_by_what_was_made_from_it(finished: Home, training_row: str) -> None:
    manifest(finished, "checkpoint").unlink()
    ((round_, asset, what),) = gaps(finished)
    assert (round_, asset) == ("tiny/0000", "checkpoint")
    assert what == "its manifest is gone, and refined_outputs, eval_report were made from it"
    kinds = {event.kind for event in trace(finished.store, training_row).events}
    assert "selection" in kinds
    assert "training" not in kinds
    assert rounds_of(finished, "training") == {"tiny/0001"}
    updates = dict(ask(finished.store, "SELECT trained_in, updates FROM policies").rows())
    assert updates == {None: 0, "tiny/0000": None, "tiny/0001": None}, "the update between is not known"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("garbage", "unreadable manifest"),
        ('{"format": 1}', "unreadable manifest: round"),
        (f'{{"format": {FORMAT + 1}, "code_version": "9.0.0"}}', f"has format {FORMAT + 1}"),
        (f'{{"format": {FORMAT - 1}, "code_version": "0.0.1"}}', f"has format {FORMAT - 1}"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_left_out_and_named(
    finished: Home, training_row: str, content: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(finished, "generated_corpus").write_text(content)
    ((round_, asset, what),) = gaps(finished)
    assert (round_, asset) == ("tiny/0000", "generated_corpus")
    assert said in what
    assert rounds_of(finished, "samples") == {"tiny/0001"}
    result = run(finished, monkeypatch, "sql", "SELECT count(*) FROM samples")
    assert (result.exit_code, result.stderr.count("missing")) == (0, 1)
    assert said in result.stderr
    kinds = [event.kind for event in trace(finished.store, training_row).events]
    assert "training" in kinds, "its sample is not known any more, what was trained on it is"


def test_an_artifact_of_another_format_names_the_version_that_reads_it(finished: Home) -> None:
    path = manifest(finished, "eval_report")
    for written, fix in (
        (FORMAT + 1, "install selfimp_dagster 9.0.0"),
        (FORMAT - 1, "materialize eval_report"),
    ):
        path.write_text(json.dumps({"format": written, "code_version": "9.0.0"}))
        with pytest.raises(SelfimpError) as caught:
            compare(finished.store, _FIRST, _SECOND)
        assert fix in caught.value.fix


def test_a_manifest_of_another_artifact_is_refused(finished: Home) -> None:
    manifest(finished, "eval_report").write_bytes(manifest(finished, "eval_report", _SECOND).read_bytes())
    ((_, _, what),) = gaps(finished)
    assert what == "the manifest is that of eval_report of tiny/0001"


def test_a_table_that_is_gone_is_left_out_and_named(
    finished: Home, training_row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(finished, "selected_subset", "selection").unlink()
    ((round_, asset, what),) = gaps(finished)
    assert (round_, asset, what) == ("tiny/0000", "selected_subset", "the file selection.parquet is gone")
    assert rounds_of(finished, "selection") == {"tiny/0001"}
    assert rounds_of(finished, "subset") == {"tiny/0000", "tiny/0001"}
    result = run(finished, monkeypatch, "trace", training_row)
    assert result.exit_code == 0
    assert "trained on in the update sft" in result.stdout
    assert "materialize selected_subset of tiny/0000 again" in result.stderr


def test_a_table_that_was_altered_is_left_out_once_a_query_fails_on_it(
    finished: Home, training_row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(finished, "generated_corpus", "samples").write_bytes(b"no table")
    answer = ask(finished.store, "SELECT DISTINCT in_round FROM samples")
    assert list(answer.rows()) == [("tiny/0001",)]
    (gap,) = answer.inventory.gaps
    assert gap.what == "the file samples.parquet is not what was written (hash mismatch)"
    assert "samples.parquet" in run(finished, monkeypatch, "sql", "SELECT count(*) FROM samples").stderr
    found = trace(finished.store, training_row)
    assert found.gaps == (gap,)
    assert "training" in {event.kind for event in found.events}


def test_a_report_that_is_gone_leaves_the_other_rounds_in_the_ledger(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished.store.open(_SECOND, "eval_report").folder / "report.json").unlink()
    with pytest.raises(SelfimpError, match=r"report.json is gone"):
        read_ledger(finished.store)
    unreadable: list[SelfimpError] = []
    ledger = read_ledger(finished.store, unreadable=unreadable)
    assert ledger["round"].to_list() == ["tiny/0000"]
    assert [error.where for error in unreadable] == ["tiny/0001 eval_report"]
    status = run(finished, monkeypatch, "status", "tiny")
    assert status.exit_code == 0
    assert "tiny/0000" in status.stdout
    assert "tiny: what comes next is not known" in status.stdout
    assert "tiny/0001 eval_report: the file report.json is gone" in status.stderr
    with pytest.raises(SelfimpError, match=r"report.json is gone"):
        compare(finished.store, _FIRST, _SECOND)


def test_the_asset_round_ledger_names_the_rounds_that_it_leaves_out(finished: Home) -> None:
    (finished.store.open(_FIRST, "incumbent_policy").folder / "policy.json").unlink()
    with finished.instance() as instance:
        assert finished.materialize(instance, "tiny/0001", "round_ledger").success
        event = instance.get_latest_materialization_event(dg.AssetKey("round_ledger"))
    assert event is not None
    assert event.asset_materialization is not None
    left_out = event.asset_materialization.metadata["rounds_left_out"].value
    assert "tiny/0000 incumbent_policy: the file policy.json is gone" in str(left_out)
    assert list(ask(finished.store, "SELECT round FROM ledger").rows()) == [("tiny/0001",)]


def repeated_row(home: Home) -> str:
    """A training row of the first round that a sample of the second repeats."""
    trained = home.store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"]
    evidence = home.store.open(_SECOND, "selected_subset").table("selection", SELECTION)["evidence"]
    repeated = evidence.str.json_path_match("$.duplicate_of").drop_nulls().unique().sort()
    return str(repeated.filter(repeated.is_in(trained.implode()))[0])


def test_a_round_whose_folder_is_gone_is_named_by_what_started_from_it(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated = repeated_row(finished)
    shutil.rmtree(finished.store.folder / str(_FIRST))
    (gap,) = take_inventory(finished.store).gaps
    assert (gap.round, gap.asset) == ("tiny/0000", None)
    assert gap.what == "its folder is gone, and tiny/0001 started from it"
    assert "copy tiny/0000 back" in gap.fix

    drawn = finished.store.open(_SECOND, "generated_corpus").table("samples", SAMPLES)["sample_id"][0]
    found = trace(finished.store, drawn)
    assert found.gaps == (gap,)
    assert "drawn from weights whose line from the base model is broken" in " ".join(
        event.what for event in found.events
    )
    lost = trace(finished.store, repeated)
    assert {event.kind for event in lost.events} == {"copy"}, (
        "later samples repeat it: that is all that is left"
    )

    (row,) = read_ledger(finished.store).to_dicts()
    assert row["round"] == "tiny/0001"
    assert row["decision"].startswith("Not known: tiny/0000")
    status = run(finished, monkeypatch, "status", "tiny")
    assert status.exit_code == 0
    assert "tiny: what comes next is not known" in status.stdout
    assert "tiny/0000: its folder is gone" in status.stderr
    with pytest.raises(SelfimpError, match="no such artifact"):
        compare(finished.store, _FIRST, _SECOND)


def test_an_id_that_a_damaged_store_does_not_have_may_be_in_what_is_missing(finished: Home) -> None:
    manifest(finished, "generated_corpus").write_text("garbage")
    with pytest.raises(SelfimpError, match=r"what is missing from the store may have it \(1 gaps\)"):
        trace(finished.store, "0123456789abcdef")


def test_weights_that_were_deleted_to_free_space_are_no_gap(finished: Home, training_row: str) -> None:
    shutil.rmtree(finished.store.open(_SECOND, "checkpoint").folder / "model")
    assert gaps(finished) == []
    assert trace(finished.store, training_row).gaps == ()


def test_a_folder_that_is_named_like_no_round_is_none(finished: Home) -> None:
    (finished.store.folder / "Old Backup" / "0000").mkdir(parents=True)
    assert [str(key) for key in finished.store.rounds()] == ["tiny/0000", "tiny/0001"]
    assert gaps(finished) == []


def test_the_doctor_says_how_the_store_is(finished: Home) -> None:
    def store() -> tuple[bool, str]:
        (found,) = (finding for finding in examine(finished.settings) if finding.subject == "store")
        return found.works, found.detail

    assert store() == (True, "2 rounds, nothing missing")
    table(finished, "eval_report", "items").unlink()
    works, detail = store()
    assert not works
    assert detail.startswith("2 rounds, 1 gaps (`selfimp status` names them): tiny/0000 eval_report")


def test_of_many_gaps_ten_are_named_and_the_rest_counted(capsys: pytest.CaptureFixture[str]) -> None:
    print_gaps([Gap(f"tiny/{n:04d}", None, "gone", "copy it back", damage=True) for n in range(25)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert "tiny/0009" in lines[9]
    assert "15 more" in lines[10]
