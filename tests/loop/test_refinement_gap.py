"""The generation-verification gap in the stage `refined_outputs`: measured first, and obeyed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from home import Home

from selfimp_dagster.engines.base import Completion, Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.refinement import stage
from selfimp_dagster.records import REFINEMENTS, SAMPLES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_KEY = RoundKey("tiny", 0)
_HELPS = {"method": "best_of_n", "tasks": 6, "samples": 16, "temperature": 3.0, "gap_tasks": 12}
"""The verifier finds the right one among sixteen answers."""
_HELPS_NOT = {"method": "self_refine", "tasks": 6, "gap_tasks": 12}
"""The tiny model cannot read its own feedback."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """A round up to its checkpoint, whose candidate learnt next to nothing: greedy answers can be mended."""
    home = Home(tmp_path_factory.mktemp("gap") / "installation", tiny_model)
    home.write_campaign(recipe={"optimization": {"method": "sft", "learning_rate": 1e-6, "epochs": 1}})
    with home.instance() as instance:
        assert home.materialize(instance, str(_KEY), *STAGES[:4]).success
    return home


@pytest.fixture
def home(trained: Home, tmp_path: Path) -> Home:
    """The same in a copy of its own."""
    return trained.copy_to(tmp_path / "copy")


@pytest.fixture
def refine(home: Home) -> Callable[..., Artifact]:
    return partial(run_stage, home)


def run_stage(home: Home, **choice: Any) -> Artifact:
    """Runs the stage of the round with a refinement."""

    def with_choice(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
        policy, start = read_policy(store, key)
        campaign = policy.campaign.with_recipe({"refinement": choice}, where="test")
        return policy.model_copy(update={"campaign": campaign}), start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "read_policy", with_choice)
        return stage.refine_outputs(home.bench, _KEY, {})


@pytest.mark.parametrize("required", ["positive", "proven"])
def test_a_refinement_that_helps_on_practice_is_used(refine: Callable[..., Artifact], required: str) -> None:
    made = refine(**_HELPS, gap=required)
    gap = made.facts["gap"]
    assert made.facts["enabled"]
    assert gap["tasks"] == 12
    assert gap["low" if required == "proven" else "value"] > 0
    assert gap["refined_tokens"] > gap["plain_tokens"] > 0
    per_token = gap["accuracy_per_1000_tokens_plain"] / gap["accuracy_per_1000_tokens_refined"]
    assert per_token == pytest.approx(
        gap["plain"] / gap["refined"] * gap["refined_tokens"] / gap["plain_tokens"]
    )
    table = made.table("refinements", REFINEMENTS)
    assert made.facts["accuracy_after"] > made.facts["accuracy_before"]
    assert (table["after_tokens"] > table["before_tokens"]).all()


@pytest.mark.parametrize("required", ["positive", "proven"])
def test_one_that_does_not_leaves_the_answers_as_they_are(
    refine: Callable[..., Artifact], required: str
) -> None:
    made = refine(**_HELPS_NOT, gap=required)
    assert made.facts["gap"]["value"] <= 0
    assert not made.facts["enabled"]
    assert f"the gap is {made.facts['gap']['value']:+.3f}" in made.facts["why"]
    table = made.table("refinements", REFINEMENTS)
    assert table["before_sample_id"].equals(table["after_sample_id"])
    assert made.facts["accuracy_after"] == made.facts["accuracy_before"]
    # What the measurement drew is kept and can be looked at, but no answer was refined.
    drawn = made.table("samples", SAMPLES)
    assert drawn.filter(pl.col("task_id").is_in(table["task_id"].implode())).height == table.height
    assert drawn.height > table.height + 12


def test_killed_while_the_gap_is_measured_it_draws_what_is_missing_and_comes_out_the_same(
    home: Home, trained: Home, tmp_path: Path
) -> None:
    other = trained.copy_to(tmp_path / "uninterrupted")
    with _watched() as all_drawn:
        wanted = run_stage(other, **_HELPS)
    log = home.folder / "drawn.txt"
    killed = subprocess.run(
        [sys.executable, "-c", _DIES_IN_ITS_THIRD_DRAW, str(home.folder), str(home.model), str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    begun = log.read_text().split()
    assert 0 < len(begun) < len(all_drawn)
    with _watched() as drawn:
        made = run_stage(home, **_HELPS)
    assert sorted(begun + drawn) == sorted(all_drawn)
    assert made.data_version == wanted.data_version
    assert made.facts["gap"] == wanted.facts["gap"]


_DIES_IN_ITS_THIRD_DRAW = """
import os, signal, sys
from pathlib import Path
import test_refinement_gap as tests
from home import Home

with tests._watched() as drawn:
    engine, watching, batches = tests.TransformersEngine, tests.TransformersEngine.generate, []

    def dying(self, *arguments, **others):
        if len(batches) == 2:
            Path(sys.argv[3]).write_text(" ".join(drawn))
            os.kill(os.getpid(), signal.SIGKILL)
        batches.append(None)
        yield from watching(self, *arguments, **others)

    engine.generate = dying
    tests.run_stage(Home(Path(sys.argv[1]), Path(sys.argv[2])), **tests._HELPS)
"""


@contextmanager
def _watched() -> Iterator[list[str]]:
    """The samples that engines are asked for meanwhile."""
    drawn: list[str] = []
    generate = TransformersEngine.generate

    def watch(
        engine: TransformersEngine, requests: Sequence[Request], sampling: Sampling, **others: Any
    ) -> Iterator[list[Completion]]:
        drawn.extend(request.request_id for request in requests)
        yield from generate(engine, requests, sampling, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformersEngine, "generate", watch)
        yield drawn
