"""The generation-verification gap in the stage `refined_outputs`: measured first, and obeyed."""

from collections.abc import Callable, Iterator, Sequence
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
def refine(trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Artifact]:
    """Runs the stage of the round with a refinement, in a copy of its own."""
    home = trained.copy_to(tmp_path / "copy")

    def run(**choice: Any) -> Artifact:
        def with_choice(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
            policy, start = read_policy(store, key)
            campaign = policy.campaign.with_recipe({"refinement": choice}, where="test")
            return policy.model_copy(update={"campaign": campaign}), start

        monkeypatch.setattr(stage, "read_policy", with_choice)
        return stage.refine_outputs(home.bench, _KEY, {})

    return run


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


def test_what_the_gap_drew_is_not_drawn_again(
    refine: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    generate = TransformersEngine.generate
    stop_after = 2

    def watch(
        engine: TransformersEngine, requests: Sequence[Request], sampling: Sampling, **others: Any
    ) -> Iterator[list[Completion]]:
        nonlocal stop_after
        if stop_after == 0:
            raise KeyboardInterrupt
        stop_after -= 1
        drawn.extend(request.request_id for request in requests)
        yield from generate(engine, requests, sampling, **others)

    monkeypatch.setattr(TransformersEngine, "generate", watch)
    with pytest.raises(KeyboardInterrupt):
        refine(**_HELPS)
    begun = list(drawn)
    assert begun
    stop_after = 1000
    made = refine(**_HELPS)
    assert len(drawn) == len(set(drawn)), "something was drawn twice"
    assert set(begun) <= set(made.table("samples", SAMPLES)["sample_id"])
