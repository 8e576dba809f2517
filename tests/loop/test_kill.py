"""A round whose process is killed is finished by running it again, with the rows it would have had."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from home import Home

from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.optimization import training
from selfimp_dagster.records import SAMPLES
from selfimp_dagster.round_key import RoundKey

_KEY = RoundKey("tiny", 0)
_SAMPLES = 250 * 8
_SECONDS = 240
_CHANGES: dict[str, Any] = {
    # Enough batches that a process is always still sampling when its first batch is on disk.
    "pools": {"train": 250},
    "recipe": {
        "acquisition": {
            "method": "policy_sampling",
            "samples_per_task": 8,
            "sampling": {"max_new_tokens": 4},
        },
        "optimization": {"method": "sft", "learning_rate": 1e-4, "epochs": 1, "batch_size": 16},
    },
}


_DIES_AFTER_THREE_STEPS = """
import os, signal, sys
from selfimp_dagster import cli
from selfimp_dagster.lifecycle.optimization import resuming, training

resuming.SAVE_EVERY = 0.0

def die(self, args, state, control, **others):
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

training.Watch.on_step_end = die
sys.argv = ["selfimp", "run", "tiny"]
cli.main()
"""


@pytest.fixture
def slow(home: Home) -> Home:
    home.write_campaign(**_CHANGES)
    return home


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """The same round in another home, run without a break."""
    made = Home(tmp_path_factory.mktemp("uninterrupted") / "installation", tiny_model)
    made.write_campaign(**_CHANGES)
    made.run(str(_KEY))
    return made


def _parts(home: Home) -> list[Path]:
    return sorted((home.store.folder / "tiny/0000/generated_corpus").glob(".draft-*/.parts/*.parquet"))


def _training(home: Home) -> list[Path]:
    return list((home.store.folder / "tiny/0000/checkpoint").glob(".draft-*"))


def _run_and_kill(home: Home, when: Callable[[Home], list[Path]]) -> None:
    """Starts `selfimp run tiny` and kills it with SIGKILL as soon as there is something to see."""
    log = home.folder / "killed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "selfimp_dagster.cli", "run", "tiny"],
            env={**os.environ, **home.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + _SECONDS
            while not when(home):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"nothing to see after {_SECONDS} s"
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL


def _statuses(home: Home) -> list[dg.DagsterRunStatus]:
    """Of all runs, the newest first."""
    with home.instance() as instance:
        return [run.status for run in instance.get_runs()]


def _assert_same_round(home: Home, expected: Home) -> None:
    samples, wanted = (
        h.store.open(_KEY, "generated_corpus").table("samples", SAMPLES) for h in (home, expected)
    )
    assert wanted.height == _SAMPLES
    assert samples.height == samples["sample_id"].n_unique() == _SAMPLES
    assert samples.select("sample_id", "response", "seed").equals(
        wanted.select("sample_id", "response", "seed")
    )
    for stage in ("incumbent_policy", "generated_corpus", "selected_subset", "checkpoint", "refined_outputs"):
        assert home.store.open(_KEY, stage).data_version == expected.store.open(_KEY, stage).data_version, (
            stage
        )
    files = [
        h.store.open(_KEY, "eval_report").manifest.files["evaluations.parquet"] for h in (home, expected)
    ]
    assert files[0] == files[1]


def test_killed_while_sampling_it_goes_on_at_the_rows_that_are_missing(
    slow: Home, uninterrupted: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_and_kill(slow, _parts)
    assert not slow.store.has(_KEY, "generated_corpus")
    assert _statuses(slow) == [dg.DagsterRunStatus.STARTED], "nobody noticed"
    drawn = sum(_rows(file) for file in _parts(slow))
    assert 0 < drawn < _SAMPLES
    asked: list[int] = []
    generate = TransformersEngine.generate

    def watch(self: TransformersEngine, requests: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(len(requests))
        return generate(self, requests, *arguments, **named)

    monkeypatch.setattr(TransformersEngine, "generate", watch)
    slow.run(str(_KEY))
    assert asked[0] == _SAMPLES - drawn
    assert _statuses(slow) == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    _assert_same_round(slow, uninterrupted)


def test_killed_while_training_it_trains_again_and_keeps_what_was_finished(
    slow: Home, uninterrupted: Home
) -> None:
    _run_and_kill(slow, _training)
    assert not slow.store.has(_KEY, "checkpoint")
    manifests = [
        slow.store.folder / "tiny/0000" / stage / "manifest.json"
        for stage in ("incumbent_policy", "generated_corpus", "selected_subset")
    ]
    written = [path.stat().st_mtime_ns for path in manifests]
    slow.run(str(_KEY))
    assert [path.stat().st_mtime_ns for path in manifests] == written, "finished stages were run again"
    _assert_same_round(slow, uninterrupted)


def test_killed_between_two_optimizer_steps_it_goes_on_at_the_last_saved_one(
    slow: Home, uninterrupted: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _DIES_AFTER_THREE_STEPS],
        env={**os.environ, **slow.environment},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert slow.store.has(_KEY, "selected_subset")
    assert not slow.store.has(_KEY, "checkpoint")
    taken: list[int] = []

    def watch(self: Any, arguments: Any, state: Any, control: Any, **others: Any) -> None:
        taken.append(state.global_step)

    monkeypatch.setattr(training.Watch, "on_step_end", watch)
    slow.run(str(_KEY))
    assert taken[0] == 3, "the third step was not saved yet"
    assert not list(slow.store.folder.glob("tiny/0000/checkpoint/**/.trainer"))
    _assert_same_round(slow, uninterrupted)


def _rows(file: Path) -> int:
    import polars as pl

    return pl.read_parquet(file).height
