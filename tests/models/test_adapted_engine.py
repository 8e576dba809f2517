"""A temporary adapter on an engine: what it learns, and that nothing of it stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from selfimp_dagster.engines.adapted import AdaptedEngine, adapted, weights_sha256
from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.adapter import Adapter
from selfimp_dagster.models.hashing import policy_hash

ASKED = ({"role": "user", "content": "learn 123"},)
SETTINGS = {"rank": 4, "learning_rate": 1e-2, "seed": 0, "on_tokens": lambda count: None}


@pytest.fixture
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, dtype="float32")


def likelihood(engine: TransformersEngine, said: str) -> float:
    return sum(engine.logprobs([(ASKED, said)])[0])


def answers(engine: TransformersEngine) -> list[tuple[str, float]]:
    """Responses with their log-probabilities, which show a change of the last bit."""
    requests = [Request(str(n), ({"role": "user", "content": f"learn {n}"},), n) for n in range(100, 116)]
    (batch,) = engine.generate(requests, Sampling(max_new_tokens=4, temperature=1.0))
    return [(completion.response, completion.sum_logprob) for completion in batch]


def test_what_it_learns_is_sampled_with_and_forgotten(engine: TransformersEngine) -> None:
    before, said = weights_sha256(engine), answers(engine)
    plain = likelihood(engine, "7")
    with adapted(engine, **SETTINGS) as adapter:
        begun = answers(engine)
        assert [text for text, _ in begun] == [text for text, _ in said], "an adapter begins as no change"
        first = adapter.policy_hash
        for _ in range(5):
            adapter.step([(ASKED, "7", True)], [1.0])
        assert likelihood(engine, "7") > plain + 0.2
        assert answers(engine) != said
        assert adapter.policy_hash != first
        adapter.reset()
        assert adapter.policy_hash == first
        assert likelihood(engine, "7") == pytest.approx(plain, abs=1e-6)
        for _ in range(5):
            adapter.step([(ASKED, "7", True)], [-1.0])
        assert likelihood(engine, "7") < plain - 0.2
    assert weights_sha256(engine) == before
    assert likelihood(engine, "7") == plain
    assert answers(engine) == said


def test_the_gradient_is_that_of_grpo(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against TRL's form of the loss, ratios and all, at the policy that drew the responses."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda optimizer: None)
    responses, advantages = (
        [(ASKED, "7", True), (ASKED, "0123", True), (ASKED, "00", True)],
        [1.5, -0.4, -1.1],
    )
    with adapted(engine, **SETTINGS) as adapter:
        inner = adapter._adapter
        with torch.no_grad():
            for weight in inner.weights:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        adapter.step(responses, advantages)
        found = torch.cat([weight.grad.flatten() for weight in inner.weights])
        engine.model.set_attn_implementation("sdpa")
        losses = []
        for example, advantage in zip(inner.encode([r[:2] for r in responses]), advantages, strict=True):
            logits = engine.model(torch.tensor([example.tokens])).logits[0, example.answer - 1 : -1]
            targets = torch.tensor(example.tokens[example.answer :])
            logs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            ratio = torch.exp(logs - logs.detach())
            losses.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean())
        gradients = torch.autograd.grad(torch.stack(losses).mean(), inner.weights)
        expected = torch.cat([gradient.flatten() for gradient in gradients])
        engine.model.set_attn_implementation("selfimp_grouped_sdpa")
    assert found.abs().max() > 0
    assert torch.allclose(found, expected, atol=1e-6, rtol=1e-4)


def test_the_end_of_a_response_that_was_cut_off_is_not_learnt(engine: TransformersEngine) -> None:
    seen: list[int] = []
    with adapted(engine, **{**SETTINGS, "on_tokens": seen.append}) as adapter:
        adapter.step([(ASKED, "77", True)], [1.0])
        adapter.step([(ASKED, "77", False)], [1.0])
        adapter.step([(ASKED, "", False)], [1.0])  # nothing was said, and nothing is learnt
    assert seen[0] - seen[1] == 1
    assert len(seen) == 2


@contextmanager
def lent(pool: EnginePool, folder: Path) -> Iterator[AdaptedEngine]:
    with pool.adapted(folder, policy_hash(folder), **SETTINGS) as adapter:
        yield adapter


def test_an_engine_is_whole_again_after_an_error(tiny_model: Path) -> None:
    pool = EnginePool(dtype="float32")
    engine: Any = pool.engine(tiny_model, policy_hash(tiny_model))
    before = weights_sha256(engine)

    def killed() -> None:
        with lent(pool, tiny_model) as adapter:
            adapter.step([(ASKED, "7", True)], [1.0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert weights_sha256(engine) == before


@pytest.mark.parametrize("left", ["merged", "on"])
def test_weights_that_are_not_what_they_were_are_an_error_and_let_go(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    def remove(adapter: Adapter) -> None:
        if left == "merged":
            adapter._model.merge_and_unload()

    monkeypatch.setattr(Adapter, "remove", remove)
    pool = EnginePool(dtype="float32")
    engine = pool.engine(tiny_model, policy_hash(tiny_model))
    with (
        pytest.raises(SelfimpError, match="the weights after test-time training have the hash"),
        lent(pool, tiny_model) as adapter,
    ):
        adapter.step([(ASKED, "7", True)], [1.0])
    assert pool.engine(tiny_model, policy_hash(tiny_model)) is not engine


def test_nothing_learnt_is_nothing_changed_even_merged(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adapter, "remove", lambda adapter: adapter._model.merge_and_unload())
    pool = EnginePool(dtype="float32")
    engine = pool.engine(tiny_model, policy_hash(tiny_model))
    with lent(pool, tiny_model):
        pass
    assert pool.engine(tiny_model, policy_hash(tiny_model)) is engine
