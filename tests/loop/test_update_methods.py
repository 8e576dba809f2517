"""Updates in the stage checkpoint, on a corpus of the tiny campaign that is there."""

from typing import Any

import pytest
from home import Home

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.optimization import stage
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.records import TRAINING, TRAINING_CURVE
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_KEY = RoundKey("tiny", 0)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, two_rounds: Home) -> Home:
    return two_rounds.copy_to(tmp_path_factory.mktemp("updates") / "installation")


@pytest.mark.parametrize(
    "choice",
    [
        {"method": "dpo", "epochs": 1},
        {"method": "kto", "epochs": 1},
        {"method": "grpo", "epochs": 1},
        {"method": "rloo", "epochs": 1},
        {"method": "spin", "epochs": 1},
        {"method": "sppo", "epochs": 1},
        {"method": "sequence", "updates": [{"method": "sft", "epochs": 1}, {"method": "dpo", "epochs": 1}]},
    ],
    ids=lambda choice: choice["method"],
)
def test_the_stage_trains_a_candidate_with_the_update(
    copy: Home, choice: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_update(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
        policy, start = read_policy(store, key)
        campaign = policy.campaign.with_recipe({"optimization": choice}, where="test")
        return policy.model_copy(update={"campaign": campaign}), start

    monkeypatch.setattr(stage, "read_policy", with_update)
    artifact = stage.train_checkpoint(copy.bench, _KEY, {})
    assert artifact.table("training_curve", TRAINING_CURVE)["loss"].is_finite().all()
    assert not artifact.table("training", TRAINING).is_empty()
    assert artifact.facts["policy_hash"] != artifact.facts["parent_policy_hash"]
    engine = TransformersEngine(artifact.folder / "model", dtype="float32", device="cpu")
    asked = Request("a", ({"role": "user", "content": "learn 472"},), 0)
    ((answer,),) = engine.generate([asked], Sampling(max_new_tokens=4, temperature=0))
    assert answer.completion_tokens > 0
