"""A batch that does not fit into memory is taken in parts, and the update is the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfimp_dagster import memory
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.halving import PARTS
from selfimp_dagster.lifecycle.optimization.update import Update

Train = Callable[..., Update]

ONLINE = {"group": 4, "sampling": {"max_new_tokens": 4}}


def too_much() -> None:
    """What torch raises where memory does not suffice."""
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Memory for so many tokens of a forward pass in training, or for all but some of these passes."""

    @contextmanager
    def limited(tokens: float = float("inf"), failing: frozenset[int] = frozenset()) -> Iterator[list[int]]:
        whole, passes = torch.nn.Embedding.forward, []

        def forward(embedding: Any, ids: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                passes.append(ids.numel())
                if ids.numel() > tokens or len(passes) in failing:
                    too_much()
            return whole(embedding, ids)

        with monkeypatch.context() as patched:
            patched.setattr(torch.nn.Embedding, "forward", forward)
            yield passes

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return limited


def weights(folder: Path) -> torch.Tensor:
    found = load_file(folder / "model.safetensors")
    return torch.cat([found[name].flatten() for name in sorted(found)])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sft", {}),
        ("sft", {"weight": "confidence", "lora_rank": 2}),
        ("dpo", {"losses": {"sigmoid": 1.0, "ipo": 0.5}}),
        ("scpo", {}),
        ("sppo", {}),
        ("grpo", {}),
        ("grpo", {"variant": "dr_grpo", "divergence": 0.1}),
        ("grpo", {"variant": "dapo"}),
        ("grpo", {"online": ONLINE}),
        ("rloo", {}),
    ],
)
def test_an_update_in_parts_is_the_same_update(
    train: Train,
    memory_for: Callable[..., Any],
    tmp_path: Path,
    name: str,
    parameters: dict[str, Any],
) -> None:
    with memory_for() as passes:
        whole = train(name, **parameters)
    expected, halved = weights(tmp_path / "candidate"), memory.halvings()
    with memory_for(tokens=max(passes) - 1):
        parts = train(name, **parameters)
    assert memory.halvings() > halved
    taken = parts.metrics.filter(metric=PARTS)["value"]
    assert taken.min() >= 2
    assert whole.metrics.filter(metric=PARTS).is_empty()
    assert parts.tokens == whole.tokens
    torch.testing.assert_close(weights(tmp_path / "candidate"), expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(
        torch.tensor(parts.curve["loss"].to_list()),
        torch.tensor(whole.curve["loss"].to_list()),
        rtol=1e-3,
        atol=1e-5,
    )


def test_what_a_broken_attempt_had_added_is_forgotten(
    train: Train, memory_for: Callable[..., Any], tmp_path: Path
) -> None:
    with memory_for() as passes:
        whole = train("dpo")
    expected = weights(tmp_path / "candidate")
    assert len(passes) == 2
    # The first step fails whole, and then in its second half, when the first has left its gradients.
    with memory_for(failing=frozenset({1, 3})):
        parts = train("dpo")
    assert parts.metrics.filter(metric=PARTS)["value"].to_list() == [4.0, 4.0]
    assert parts.tokens == whole.tokens
    torch.testing.assert_close(weights(tmp_path / "candidate"), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "parameters"), [("sft", {}), ("dpo", {"losses": {"sigmoid": 1.0, "sft": 0.5}}), ("kto", {})]
)
def test_where_one_row_does_not_fit_it_says_what_would_help(
    train: Train, memory_for: Callable[..., Any], name: str, parameters: dict[str, Any]
) -> None:
    with memory_for(tokens=3), pytest.raises(SelfimpError, match="memory does not suffice") as refused:
        train(name, **parameters)
    assert "batch_size" in refused.value.fix


def test_other_errors_are_not_taken_for_it(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(torch.nn.Embedding, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train("sft")


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_gradient_checkpointing_gives_the_same_update(
    train: Train, memory_for: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    with memory_for():
        train(name)
        expected = weights(tmp_path / "candidate")
        train(name, gradient_checkpointing=True)
    torch.testing.assert_close(weights(tmp_path / "candidate"), expected, rtol=1e-4, atol=2e-5)
