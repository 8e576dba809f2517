"""An engine is held against plain transformers: right ones pass, wrong ones and other weights do not."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from home import Home

from selfimp_dagster.engines import parity, transformers_engine
from selfimp_dagster.engines.base import Completion
from selfimp_dagster.engines.parity import Parity, ParityAnswer, measure_parity
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.models.loading import DtypeName
from selfimp_dagster.round_key import RoundKey

_CHATS = [
    ({"role": "user", "content": text},) for text in ("learn 123", "keep 456", "learn 7", "keep 89", "zzz")
]


def measured(engine: TransformersEngine, folder: Path) -> Parity:
    return measure_parity(engine, folder, _CHATS, max_new_tokens=8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_transformers_engine_may_be_trusted(tiny_model: Path, dtype: DtypeName) -> None:
    found = measured(TransformersEngine(tiny_model, dtype=dtype), tiny_model)
    assert found.faults == []
    assert len(found.answers) == len(_CHATS)
    assert found.unplaced == 0
    assert (found.noise == 0) == (dtype == "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_the_round_before_are_found_out(two_rounds: Home, dtype: DtypeName) -> None:
    trained = two_rounds.store.open(RoundKey("tiny", 0), "checkpoint").folder / "model"
    found = measured(TransformersEngine(two_rounds.model, dtype=dtype), trained)
    assert any("reads tokens" in fault for fault in found.faults)
    assert any("draws tokens" in fault for fault in found.faults)


def test_an_engine_that_does_not_take_the_likeliest_token_is_found_out(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(scores: torch.Tensor, uniforms: torch.Tensor, sampling: Any) -> torch.Tensor:
        return scores.topk(2).indices[:, 1]

    monkeypatch.setattr(transformers_engine, "_draw", second)
    faults = measured(TransformersEngine(tiny_model, dtype="float32"), tiny_model).faults
    assert ["greedy token" in fault for fault in faults] == [True]


def test_an_engine_that_sees_its_padding_is_found_out(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(tiny_model, dtype="float32")
    hides = TransformersEngine._causal_mask

    def shows(self: TransformersEngine, lengths: list[int], width: int, before: int) -> torch.Tensor:
        return hides(self, [width] * len(lengths), width, before)

    monkeypatch.setattr(TransformersEngine, "_causal_mask", shows)
    faults = measured(engine, tiny_model).faults
    assert any("reads tokens" in fault for fault in faults)
    assert any("draws tokens" in fault for fault in faults)


def test_an_engine_that_answers_with_other_text_than_it_drew_is_found_out(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = TransformersEngine.generate

    def garbled(self: TransformersEngine, *asked: Any, **named: Any) -> Iterator[list[Completion]]:
        for batch in generate(self, *asked, **named):
            yield [replace(answer, response="!" * 40) for answer in batch]

    monkeypatch.setattr(TransformersEngine, "generate", garbled)
    found = measured(TransformersEngine(tiny_model, dtype="float32"), tiny_model)
    assert found.unplaced == len(_CHATS)
    assert found.faults == ["none of its answers could be read"]


def answer(
    errors: Sequence[float], noise: Sequence[float], drawn_off: float = 0.0, behind: float = 0.0
) -> Parity:
    one = ParityAnswer("p", "r", 0.0, drawn_off, tuple(errors), tuple(noise), behind, len(noise))
    return Parity({}, (one,), 0)


def test_an_engine_may_err_twice_as_much_as_rounding_and_a_thousandth_more() -> None:
    assert answer([0.03, -0.03], [0.02, 0.01]).noise == pytest.approx((0.0005 / 2) ** 0.5)
    allowed = 0.001 + 2 * (0.0005 / 2) ** 0.5
    assert answer([allowed] * 2, [0.02, 0.01]).faults == []
    assert len(answer([allowed * 1.01] * 2, [0.02, 0.01]).faults) == 1
    assert answer([0, 0], [0.02, 0.01], drawn_off=2 * allowed).faults == []
    assert len(answer([0, 0], [0.02, 0.01], drawn_off=2.02 * allowed).faults) == 1
    tie = 0.001 + 6 * (0.0005 / 2) ** 0.5
    assert answer([0, 0], [0.02, 0.01], behind=tie).faults == []
    assert len(answer([0, 0], [0.02, 0.01], behind=1.01 * tie).faults) == 1


@pytest.mark.parametrize(("value", "off"), [(-1.5, 0.0), (-2.0, 0.0), (-2.5, 0.5), (-0.25, 0.75)])
def test_between_float32_and_rounding_nothing_is_off(value: float, off: float) -> None:
    assert parity._outside(value, -1.0, -2.0) == parity._outside(value, -2.0, -1.0) == off


def test_what_is_no_number_is_a_fault() -> None:
    assert len(answer([parity._outside(float("nan"), 0.0, 0.0)], [0.0]).faults) == 1
