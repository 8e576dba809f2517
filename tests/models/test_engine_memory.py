"""Sampling and reading go on in smaller batches where memory does not suffice for the large ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfimp_dagster import memory
from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError

REQUESTS = [
    Request(f"{number}-{place}", ({"role": "user", "content": f"learn {number}"},), seed=10 * number + place)
    for number in (7, 12, 345)
    for place in range(4)
]
SAMPLING = Sampling(max_new_tokens=8)
PAIRS = [(request.messages, answer) for request in REQUESTS for answer in ("7", "12")]
TEXTS = [f"learn {number}" for number in range(9)]


@pytest.fixture
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, dtype="float32", batch_size=8)


@pytest.fixture
def memory_for(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Memory for a forward pass over so many rows; the rows of each pass are told."""

    def limit(most: int) -> list[int]:
        decoder = type(engine.model.get_decoder())
        whole, tried = decoder.forward, []

        def forward(model: Any, *arguments: Any, **named: Any) -> Any:
            tried.append(len(named["input_ids"]))
            if tried[-1] > most:
                torch.empty(1 << 60, dtype=torch.uint8)  # raises what torch raises
            return whole(model, *arguments, **named)

        monkeypatch.setattr(decoder, "forward", forward)
        return tried

    return limit


def said(engine: TransformersEngine) -> dict[str, tuple[str, str]]:
    found = [one for batch in engine.generate(REQUESTS, SAMPLING) for one in batch]
    assert len(found) == len(REQUESTS)
    return {one.request_id: (one.response, one.finish_reason) for one in found}


def test_each_request_is_answered_once_and_as_it_would_have_been(
    engine: TransformersEngine, memory_for: Callable[[int], list[int]]
) -> None:
    whole, before = said(engine), memory.halvings()
    described = engine.describe()
    tried = memory_for(3)
    assert said(engine) == whole
    assert memory.halvings() > before
    assert engine.describe() == described  # arms are compared all the same
    halved = memory.halvings()
    tried.clear()
    assert said(engine) == whole
    assert max(tried) <= 3  # what did not fit once is not tried again
    assert memory.halvings() == halved


def test_log_probabilities_and_embeddings_are_the_same(
    engine: TransformersEngine, memory_for: Callable[[int], list[int]]
) -> None:
    read, placed = engine.logprobs(PAIRS), engine.embed(TEXTS)
    memory_for(2)
    for one, other in zip(engine.logprobs(PAIRS), read, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(engine.embed(TEXTS), placed, rtol=1e-4, atol=1e-5)


def test_where_one_request_does_not_fit_it_says_what_would_help(
    engine: TransformersEngine, memory_for: Callable[[int], list[int]]
) -> None:
    memory_for(0)
    with pytest.raises(SelfimpError, match="memory does not suffice") as refused:
        said(engine)
    assert (refused.value.where, "max_new_tokens" in refused.value.fix) == ("sampling", True)


def test_the_peak_of_memory_begins_anew_with_each_stage() -> None:
    memory.forget_peaks()
    low = memory.peak_bytes()
    held = np.ones(60_000_000, np.uint8)
    assert memory.peak_bytes() - low > 50_000_000
    del held
    high = memory.peak_bytes()
    memory.forget_peaks()
    assert high - memory.peak_bytes() > 30_000_000
