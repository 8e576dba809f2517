"""Updates of the tiny model on a corpus made by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_corpus import make_context

from selfimp_dagster.lifecycle.optimization import (
    policy_gradient_trainer,
    preference_trainer,
    sft_trainer,
)
from selfimp_dagster.lifecycle.optimization.update import Update
from selfimp_dagster.registry import find_method

CORPUS = {n: ("7", "0", "0", "5") if n % 2 else ("7", "7", "7", "0") for n in range(100, 108)}

Train = Callable[..., Update]


class Built(Exception):
    """Carries a trainer that is ready to train."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Train:
    """Runs a method for two steps from the tiny model; what it made is in tmp_path / candidate."""

    def run(name: str, groups: Mapping[int, Sequence[str]] = CORPUS, **given: Any) -> Update:
        told = {
            key: given.pop(key)
            for key in ("progress", "values", "gives", "judge", "inherited")
            if key in given
        }
        method = find_method("optimization", name)
        defaults = {} if name == "sequence" else {"most_steps": 2, "learning_rate": 1e-3, "batch_size": 4}
        context = make_context(groups, model=tiny_model, output=tmp_path / "candidate", **told)
        update: Update = method.function(context, method.parameters.model_validate(defaults | given))
        return update

    return run


@pytest.fixture
def build(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The trainer of a method, ready to train in float32 on any processor, instead of its update."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    def stop(trainer: Any, *_: Any) -> None:
        raise Built(trainer)

    for module in (preference_trainer, policy_gradient_trainer, sft_trainer):
        monkeypatch.setattr(module, "run", stop)

    def built(name: str, **given: Any) -> Any:
        with pytest.raises(Built) as caught:
            train(name, **given)
        return caught.value.trainer

    return built
