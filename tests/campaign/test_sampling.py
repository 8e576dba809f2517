"""Sampling that was interrupted goes on where it was, and comes to the same rows."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfimp_dagster.engines.base import Completion, Engine, Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import SAMPLES

_SAMPLING = Sampling(max_new_tokens=4, temperature=1.0)
_REQUESTS = [
    SampleRequest(f"task {number}", ({"role": "user", "content": f"learn {number}"},), seed)
    for number in range(100, 105)
    for seed in range(4)
]


class _PowerCut(Exception):
    """The process stops between two batches."""


class _Interrupted(Engine):
    """The engine, until `batches` batches are out; it counts what it is asked for."""

    def __init__(self, engine: Engine, batches: int) -> None:
        self._engine, self._batches = engine, batches
        self.policy_hash = engine.policy_hash
        self.asked: list[str] = []

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Iterator[list[Completion]]:
        self.asked += [request.request_id for request in requests]
        for number, batch in enumerate(self._engine.generate(requests, sampling, on_tokens)):
            if number == self._batches:
                raise _PowerCut
            yield batch

    def describe(self) -> dict[str, Any]:
        return self._engine.describe()


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return TransformersEngine(tiny_model, dtype="float32", device="cpu", batch_size=4)


def _sampler(engine: Engine, folder: Path) -> DurableSampler:
    return DurableSampler(engine, engine.policy_hash, "tiny/0000", folder, LogProgress(lambda line: None))


def _rows(
    engine: Engine,
    folder: Path,
    requests: Sequence[SampleRequest] = _REQUESTS,
    sampling: Sampling = _SAMPLING,
) -> list[dict[str, Any]]:
    return _sampler(engine, folder).sample(requests, sampling, generation="SE", label="sampling").to_dicts()


def _drawn(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], tuple[str, str]]:
    return {(row["task_id"], row["seed"]): (row["sample_id"], row["response"]) for row in rows}


def test_one_row_per_request_in_the_order_of_the_requests(engine: Engine, tmp_path: Path) -> None:
    rows = _rows(engine, tmp_path)
    assert [(row["task_id"], row["seed"]) for row in rows] == [(r.task_id, r.seed) for r in _REQUESTS]
    assert list(rows[0]) == list(SAMPLES)
    assert len({row["sample_id"] for row in rows}) == len(rows)
    assert {row["response"] for row in rows} >= {"0", "7"}


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_interrupted_after_some_batches_the_rest_is_drawn_and_nothing_twice(
    engine: Engine, tmp_path: Path, batches: int
) -> None:
    whole = _rows(engine, tmp_path / "whole")
    with pytest.raises(_PowerCut):
        _rows(_Interrupted(engine, batches), tmp_path / "halves")
    again = _Interrupted(engine, 99)
    assert _rows(again, tmp_path / "halves") == whole
    assert len(again.asked) == len(_REQUESTS) - 4 * batches
    stored = [row for file in (tmp_path / "halves").glob("*.parquet") for row in _stored(file)]
    assert sorted(stored) == sorted(row["sample_id"] for row in whole)


def test_what_was_drawn_is_read_and_not_drawn_again(engine: Engine, tmp_path: Path) -> None:
    whole = _rows(engine, tmp_path)
    again = _Interrupted(engine, 0)
    assert _rows(again, tmp_path) == whole
    assert again.asked == []


def test_the_order_of_the_requests_does_not_change_a_response(engine: Engine, tmp_path: Path) -> None:
    forward = _rows(engine, tmp_path / "forward")
    backward = _rows(engine, tmp_path / "backward", _REQUESTS[::-1])
    assert _drawn(forward) == _drawn(backward)


def test_the_neighbours_of_a_request_do_not_change_its_response(engine: Engine, tmp_path: Path) -> None:
    whole = _drawn(_rows(engine, tmp_path / "whole"))
    few = _drawn(_rows(engine, tmp_path / "few", _REQUESTS[5:7]))
    assert few.items() <= whole.items()


def test_a_request_that_is_made_twice_is_one_row(engine: Engine, tmp_path: Path) -> None:
    assert len(_rows(engine, tmp_path, [_REQUESTS[0], _REQUESTS[0]])) == 1


def test_other_sampling_parameters_are_other_samples(engine: Engine, tmp_path: Path) -> None:
    warm = _rows(engine, tmp_path)
    greedy = _rows(engine, tmp_path, sampling=Sampling(max_new_tokens=4, temperature=0))
    assert {row["sample_id"] for row in warm}.isdisjoint(row["sample_id"] for row in greedy)
    assert {row["response"] for row in greedy} == {"0"}


def test_a_half_written_batch_is_not_read(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "torn.partial").write_bytes(b"PAR1 and then the power went")
    assert len(_rows(engine, tmp_path)) == len(_REQUESTS)


def test_a_store_that_is_full_says_so(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(SelfimpError, match="No space left on device"):
        _rows(engine, tmp_path)
    assert list(tmp_path.iterdir()) == []


def _stored(file: Path) -> list[str]:
    import polars as pl

    return pl.read_parquet(file)["sample_id"].to_list()
