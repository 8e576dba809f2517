"""An engine's weights with a temporary adapter on them. Needs torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from selfimp_dagster.engines.base import Message
from selfimp_dagster.engines.transformers_engine import ATTENTION, TransformersEngine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.adapter import Adapter, Example, tensors_sha256
from selfimp_dagster.records import content_hash


class AdaptedEngine:
    """An engine whose model has an adapter: what the engine samples, it samples with it."""

    def __init__(self, engine: TransformersEngine, adapter: Adapter) -> None:
        self.engine, self._adapter = engine, adapter

    @property
    def policy_hash(self) -> str:
        """The identity of the engine's weights with the adapter as it is now."""
        return content_hash(["adapted", self.engine.policy_hash, self._adapter.fingerprint()])

    def reset(self) -> None:
        """Makes the adapter what it was at first: no change of the weights."""
        self._adapter.reset()

    def step(
        self, responses: Sequence[tuple[tuple[Message, ...], str, bool]], weights: Sequence[float]
    ) -> None:
        """One step of the adapter on responses with these weights (models/adapter.py: Adapter.step).

        Args:
            responses: what was asked, what was said, and whether it ended by itself: the end of the turn of
                one that was cut off is not learnt.
        """
        encoded = self._adapter.encode([(messages, said) for messages, said, _ in responses])
        examples = [
            example if ended else Example(example.tokens[:-1], example.answer)
            for example, (_, _, ended) in zip(encoded, responses, strict=True)
        ]
        learnt = [
            (example, weight)
            for example, weight in zip(examples, weights, strict=True)
            if len(example.tokens) > example.answer
        ]
        if learnt:
            with _stock_attention(self.engine):
                self._adapter.step([example for example, _ in learnt], [weight for _, weight in learnt])


@contextmanager
def adapted(
    engine: TransformersEngine,
    *,
    rank: int,
    learning_rate: float,
    seed: int,
    on_tokens: Callable[[int], None],
) -> Iterator[AdaptedEngine]:
    """Puts an adapter on the weights of an engine; at the end, whatever happened, it is taken away.

    Raises:
        SelfimpError: the weights are not bit by bit what they were: the engine must not be used again.
    """
    before = weights_sha256(engine)
    adapter = Adapter(
        engine.model,
        engine.tokenizer,
        rank=rank,
        learning_rate=learning_rate,
        seed=seed,
        on_tokens=on_tokens,
    )
    try:
        yield AdaptedEngine(engine, adapter)
    finally:
        adapter.remove()
        after = weights_sha256(engine)
        if after != before:
            raise SelfimpError(
                f"the weights after test-time training have the hash {after[:16]}, before it {before[:16]}",
                where="recipe.refinement",
                fix="run the step again in a new process, and report this: nothing is made of these weights",
            )


def weights_sha256(engine: TransformersEngine) -> str:
    """The SHA-256 of all weights that an engine computes with, by name."""
    return tensors_sha256(sorted(engine.model.state_dict().items()))


@contextmanager
def _stock_attention(engine: TransformersEngine) -> Iterator[None]:
    """The model's attention as training needs it: the engine's own wants a mask with every call."""
    engine.model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        engine.model.set_attn_implementation(ATTENTION)
