"""docs/operating.md: a backup is restored, and what may be deleted can be spared."""

import os
import shutil
from pathlib import Path

import pytest
from home import Home
from pages import fences

from selfimp_dagster.cli import app
from selfimp_dagster.lineage.views import ask
from selfimp_dagster.round_key import RoundKey

_BACKUP, _RESTORE = (code for language, code in fences("docs/operating.md") if language == "sh")


def _selfimp(*words: str) -> None:
    assert not app(list(words), standalone_mode=False)


@pytest.fixture
def moved(finished: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Two finished rounds whose home was backed up as the page says and then lost."""
    here = tmp_path / "elsewhere"
    shutil.move(finished.folder, here)
    (here / "home").rename(here / ".selfimp")
    monkeypatch.chdir(here)
    assert os.system(f"set -e\n{_BACKUP}") == 0
    shutil.rmtree(here / ".selfimp")
    (here / "selfimp-backup").rename(here / "home")
    monkeypatch.setenv("SELFIMP_HOME", str(here / "home"))
    monkeypatch.setenv("SELFIMP_CAMPAIGNS", str(here / "campaigns"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    return Home(here, finished.model)


def _training_row(home: Home) -> str:
    (row,) = next(iter(ask(home.store, "SELECT min(sample_id) FROM training").rows()))
    return str(row)


def _runs(home: Home) -> set[str]:
    with home.instance() as instance:
        return {run.run_id for run in instance.get_runs()}


def test_a_restored_backup_tells_all_and_goes_on(
    moved: Home, two_rounds: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    _selfimp("status", "tiny")
    assert "tiny: tiny/0002 next." in capfd.readouterr().out
    _selfimp("trace", _training_row(moved))
    assert "trained on in the update sft" in capfd.readouterr().out
    assert _runs(moved) == _runs(two_rounds) != set()
    with moved.instance() as instance:
        assert sorted(instance.get_dynamic_partitions("rounds")) == ["tiny/0000", "tiny/0001"]
    _selfimp("run", "tiny")
    assert moved.store.has(RoundKey("tiny", 2), "eval_report")


def test_the_artifacts_alone_hold_all_results(moved: Home, capfd: pytest.CaptureFixture[str]) -> None:
    for entry in (moved.folder / "home").iterdir():
        if entry.name != "artifacts":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    _selfimp("status", "tiny")
    assert "tiny: tiny/0002 next." in capfd.readouterr().out
    _selfimp("run", "tiny")
    assert moved.store.has(RoundKey("tiny", 2), "eval_report")


def test_what_may_be_deleted_is_not_missed(moved: Home, capfd: pytest.CaptureFixture[str]) -> None:
    row = _training_row(moved)
    artifacts = moved.settings.store
    rejected = moved.store.open(RoundKey("tiny", 1), "checkpoint", verify=False).folder
    old = artifacts / "tiny/0000/eval_report/0123456789abcdef"
    old.mkdir()
    for folder in (rejected / "model", old, artifacts / ".index", artifacts / "reports"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (moved.folder / "home/storage").iterdir():
        shutil.rmtree(folder)
    (artifacts / "ledger.parquet").unlink()
    for words in (["status", "tiny"], ["trace", row], ["report", "tiny"], ["run", "tiny"]):
        _selfimp(*words)
        assert "missing" not in capfd.readouterr().err
    assert (artifacts / "ledger.parquet").exists()
