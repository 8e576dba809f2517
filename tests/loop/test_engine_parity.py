"""A round whose engine does not compute what its weights say stops before anything was drawn with it."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from home import Home

from selfimp_dagster.engines import transformers_engine
from selfimp_dagster.engines.base import Engine
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.round_key import RoundKey

_KEY = RoundKey("tiny", 0)


def failed_check(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """The asset and the description of the one check that failed."""
    [check] = [c for c in result.get_asset_check_evaluations() if not c.passed]
    assert check.check_name == "engine_parity"
    return check.asset_key.to_user_string(), check.description or ""


def test_an_engine_that_answers_wrongly_samples_no_corpus(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worst(scores: torch.Tensor, uniforms: torch.Tensor, sampling: Any) -> torch.Tensor:
        return scores.argmin(-1)

    monkeypatch.setattr(transformers_engine, "_draw", worst)
    with home.instance() as instance:
        result = home.materialize(instance, str(_KEY))
    assert not result.success
    asset, why = failed_check(result)
    assert asset == "incumbent_policy"
    assert "a greedy token lies" in why
    assert not home.store.has(_KEY, "generated_corpus")


def test_an_engine_that_kept_the_incumbents_weights_does_not_answer_for_the_candidate(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = EnginePool.engine

    def stale(self: EnginePool, folder: Path, policy_hash: str, *dtype: Any) -> Engine:
        return load(self, home.model, policy_hash, *dtype)

    monkeypatch.setattr(EnginePool, "engine", stale)
    with home.instance() as instance:
        result = home.materialize(instance, str(_KEY))
    assert not result.success
    asset, why = failed_check(result)
    assert asset == "checkpoint"
    assert "nats off" in why
    assert not home.store.has(_KEY, "refined_outputs")
