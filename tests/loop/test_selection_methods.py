"""Every selection step and every curriculum in rounds of the tiny campaign, on a corpus that is there."""

from typing import Any

import polars as pl
import pytest
from home import Home

from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.lifecycle.acquisition import stage as acquisition
from selfimp_dagster.lifecycle.curriculum.stage import STATE as CURRICULUM_STATE
from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.selection import ALWAYS_ON
from selfimp_dagster.lifecycle.selection import stage as selection
from selfimp_dagster.records import SAMPLES, SELECTION, TASKS
from selfimp_dagster.registry import all_methods, find_method
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)
_ALWAYS_ON = [{"method": name} for name in ALWAYS_ON]
_STEPS = [m.name for m in all_methods() if m.stage == "selection" and m.name not in ALWAYS_ON]
_REQUIRED = {"llm_grade": {"judge": {"source": "base"}}}
_MODEL = frozenset({"logprobs", "embeddings", "gradients"})


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, two_rounds: Home) -> Home:
    return two_rounds.copy_to(tmp_path_factory.mktemp("selection") / "installation")


@pytest.fixture
def with_recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the stages find another recipe than the one that the round was started with."""

    def change(changes: dict[str, Any]) -> None:
        def changed(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
            policy, start = read_policy(store, key)
            campaign = policy.campaign.with_recipe(changes, where="test")
            return policy.model_copy(update={"campaign": campaign}), start

        for stage in (acquisition, selection):
            monkeypatch.setattr(stage, "read_policy", changed)

    return change


@pytest.mark.parametrize("name", _STEPS)
def test_the_step_judges_every_row_and_loads_an_engine_only_if_it_needs_one(
    copy: Home, with_recipe: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = EnginePool.engine
    monkeypatch.setattr(EnginePool, "engine", lambda *given: asked.append(given[2]) or load(*given))
    with_recipe({"selection": [{"method": name, **_REQUIRED.get(name, {})}, *_ALWAYS_ON]})
    artifact = selection.select_subset(copy.bench, _SECOND)
    samples = copy.store.open(_SECOND, "generated_corpus").table("samples", SAMPLES)
    fates = artifact.table("selection", SELECTION).filter(step=name)
    assert set(fates["sample_id"]) == set(samples["sample_id"])
    assert fates.filter(pl.col("score").is_null() & pl.col("kept")).height <= (name == "k_centre")
    assert fates["score"].drop_nulls().is_finite().all()
    assert fates.filter((pl.col("reason") == "") | ~pl.col("evidence").str.starts_with("{")).is_empty()
    needs = find_method("selection", name).needs
    graded = name in _REQUIRED
    assert bool(asked) == (graded or bool(needs & {"logprobs", "embeddings"}))
    assert (artifact.measurements["tokens"] > 0) == (graded or bool(needs & _MODEL))
    assert ("engine" in artifact.facts) == (bool(asked) and not graded)


def test_a_selector_learns_from_the_parent_round_and_a_rerun_learns_nothing_more(
    copy: Home, with_recipe: Any
) -> None:
    with_recipe({"selection": [*_ALWAYS_ON, {"method": "validation_gain"}]})
    first = selection.select_subset(copy.bench, _FIRST)
    second = selection.select_subset(copy.bench, _SECOND)
    assert second.manifest.parents[f"{_FIRST}/selected_subset"] == first.data_version
    began, learnt = (a.json(selection.STATE)["validation_gain"] for a in (first, second))
    report = read_report(copy.store, _FIRST)
    candidate, incumbent = (report.score("fresh", arm) for arm in ("candidate", "incumbent"))
    assert candidate is not None
    assert incumbent is not None
    gain = candidate.accuracy - incumbent.accuracy
    assert (began["gains"], learnt["gains"]) == (0, 1)
    assert learnt["mean_gain"] == pytest.approx(gain) != 0
    assert learnt["weights"] == pytest.approx(
        {name: 5 * gain * step for name, step in began["trace"].items()}
    )
    again = selection.select_subset(copy.bench, _SECOND)
    assert again.data_version == second.data_version


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("adarft", {"easiest": 0.0, "hardest": 2.0, "target_reward": 0.2}),
        ("adastar", {"dataset": 16}),
        ("dump", {}),
        ("sec", {}),
    ],
)
def test_a_curriculum_goes_on_from_the_parent_round(
    copy: Home, with_recipe: Any, name: str, parameters: dict[str, Any]
) -> None:
    with_recipe({"curriculum": {"method": name, **parameters}})
    first, second = (acquisition.generate_corpus(copy.bench, key, {"tasks": 8}) for key in (_FIRST, _SECOND))
    assert second.manifest.parents[f"{_FIRST}/generated_corpus"] == first.data_version
    began, went_on = (artifact.json(CURRICULUM_STATE)[name] for artifact in (first, second))
    assert began != went_on
    assert second.facts["skill_weights"] == {"learning": 1.0}
    again = acquisition.generate_corpus(copy.bench, _SECOND, {"tasks": 8})
    assert again.data_version == second.data_version, "the state is that of the parent, not of the last run"
    tasks = [artifact.table("tasks", TASKS).filter(source="file") for artifact in (first, second)]
    assert all(table.height >= 8 for table in tasks)
    if name == "adastar":
        asked = [set(table["task_id"]) for table in tasks]
        noted = set(went_on["standings"])
        assert noted <= asked[0]
        assert asked[0] - noted <= asked[1], "what was not noted as asked comes again"
