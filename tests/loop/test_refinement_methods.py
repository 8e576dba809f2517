"""Every refinement method in a round of the tiny campaign: its stage runs, and what it says adds up."""

import polars as pl
import pytest
from home import Home

from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.refinement import stage
from selfimp_dagster.records import REFINEMENTS, SAMPLES
from selfimp_dagster.registry import all_methods
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_KEY = RoundKey("tiny", 0)
_ADAPT = {"tt_sft", "ttrl"}
_READ_MORE = _ADAPT | {"contrastive_decoding"}
"""Methods that read tokens which stand in no sample: in training, or with other weights."""
_METHODS = [method.name for method in all_methods() if method.stage == "refinement"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, two_rounds: Home) -> Home:
    return two_rounds.copy_to(tmp_path_factory.mktemp("refinement") / "installation")


@pytest.mark.parametrize("name", _METHODS)
def test_the_stage_runs_with_the_method(copy: Home, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_method(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
        policy, start = read_policy(store, key)
        changed = {"refinement": {"method": name, "tasks": 4, "gap": "ignored"}}
        campaign = policy.campaign.with_recipe(changed, where="test")
        return policy.model_copy(update={"campaign": campaign}), start

    monkeypatch.setattr(stage, "read_policy", with_method)
    artifact = stage.refine_outputs(copy.bench, _KEY, {})
    table, samples = artifact.table("refinements", REFINEMENTS), artifact.table("samples", SAMPLES)
    assert table.height == 4
    assert set(table["after_sample_id"]) <= set(samples["sample_id"])
    assert table["agreement"].is_between(0, 1).all()
    assert not samples["sample_id"].is_duplicated().any()
    spent = samples.select(pl.sum("prompt_tokens") + pl.sum("completion_tokens")).item()
    assert table["after_tokens"].sum() > spent - table.height  # shared costs are in whole tokens
    if name not in _READ_MORE:
        assert table["after_tokens"].sum() <= spent
    if name in _ADAPT:
        assert artifact.facts["notes"]["adapters"]["restored"] >= 1
        # The engine that the round goes on with answers as it did: the greedy answers come again.
        again = stage.refine_outputs(copy.bench, _KEY, {})
        assert again.data_version == artifact.data_version
