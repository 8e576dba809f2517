"""A line of rounds whose checkpoints carry a reward model and a verifier: trained, asked, trained again."""

from typing import Any

import polars as pl
import pytest
from home import GENTLE, Home

from selfimp_dagster.lifecycle.acquisition import stage as acquisition
from selfimp_dagster.lifecycle.companions import CompanionRecord
from selfimp_dagster.lifecycle.evaluation import stage as evaluation
from selfimp_dagster.lifecycle.optimization import stage as optimization
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.refinement import stage as refinement
from selfimp_dagster.records import REWARDED, REWARDS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)
_COMPANIONS = ("reward_model", "verifier")
_RECIPE: dict[str, Any] = {
    "rewards": [{"method": "answer"}, *({"method": name, "floor": 0} for name in _COMPANIONS)],
    "optimization": {
        "method": "sequence",
        "updates": [
            # As the finished round was trained, so that its candidate is the one that was promoted.
            {"method": "sft", "learning_rate": GENTLE, "epochs": 4, "batch_size": 8},
            {"method": "reward_model", "learning_rate": 1e-3},
            {"method": "verifier", "learning_rate": 1e-4},
        ],
    },
    "refinement": {"method": "best_of_n", "reward": "verifier", "samples": 2, "tasks": 4},
}


@pytest.fixture
def home(finished: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Two finished rounds, whose stages now find another recipe."""

    def with_companions(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
        policy, start = read_policy(store, key)
        campaign = policy.campaign.with_recipe(_RECIPE, where="test")
        return policy.model_copy(update={"campaign": campaign}), start

    for stage in (acquisition, optimization, refinement, evaluation):
        monkeypatch.setattr(stage, "read_policy", with_companions)
    return finished


def test_companions_are_trained_asked_and_trained_again(home: Home) -> None:
    bench = home.bench
    before = home.store.open(_FIRST, "checkpoint")
    first = optimization.train_checkpoint(bench, _FIRST, {})
    assert first.facts["policy_hash"] == before.facts["policy_hash"], "companions left the policy alone"
    assert first.facts["parent_policy_hash"] != first.facts["policy_hash"]
    assert {f"companions/{name}/companion.json" for name in _COMPANIONS} <= set(first.manifest.files)
    assert {f"companions/{name}/model.safetensors" for name in _COMPANIONS} <= set(first.manifest.files)

    refined = refinement.refine_outputs(bench, _FIRST, {})
    asked = refined.table("rewards", REWARDS).filter(pl.col("reward") == "verifier")
    assert asked["value"].is_between(0, 1).all()
    assert asked.height >= 8

    # The second round's corpus is judged by what the first has trained.
    corpus = acquisition.generate_corpus(bench, _SECOND, {"tasks": 16})
    judged = corpus.table("rewards", REWARDS)
    for name in _COMPANIONS:
        own = judged.filter(pl.col("reward") == name)
        assert own["value"].null_count() == 0
        assert own["evidence"].str.contains("tiny/0000").all()
    assert corpus.manifest.parents["tiny/0000/checkpoint"] == first.data_version

    # And its own companions learn from the pairs of both rounds.
    second = optimization.train_checkpoint(bench, _SECOND, {})
    records = [
        CompanionRecord.model_validate(facts["companion"])
        for facts in second.facts["updates"]
        if "companion" in facts
    ]
    earlier = [facts["companion"] for facts in first.facts["updates"] if "companion" in facts]
    assert [record.name for record in records] == list(_COMPANIONS)
    for record, one in zip(records, earlier, strict=True):
        assert record.round == "tiny/0001"
        assert record.pairs > one["pairs"]
        assert record.held_out >= one["held_out"]

    # The shadow reward asks them too, of both arms' answers.
    report = evaluation.evaluate_round(bench, _SECOND)
    shadow = report.table("rewarded", REWARDED)
    assert set(shadow["reward"]) == set(_COMPANIONS)
    assert set(shadow["arm"]) == {"incumbent", "candidate"}
    assert shadow["value"].null_count() == 0
    assert report.manifest.parents["tiny/0000/checkpoint"] == first.data_version


def test_a_first_round_has_no_companion_to_ask(home: Home) -> None:
    corpus = acquisition.generate_corpus(home.bench, _FIRST, {"tasks": 8})
    own = corpus.table("rewards", REWARDS).filter(pl.col("reward") == "reward_model")
    assert own["value"].null_count() == own.height > 0
    assert own["evidence"].str.contains("no reward_model was trained in this line yet").all()
