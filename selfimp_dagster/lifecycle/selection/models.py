"""The models that selection steps may ask: loaded when a step first asks, and what they read is counted."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from selfimp_dagster.engines.base import Engine, Message
from selfimp_dagster.progress import Progress

Role = Literal["incumbent", "base"]
"""Which model: the weights that the round starts from, or those that the campaign started from."""

Pair = tuple[tuple[Message, ...], str]
"""What is asked, and a response to it."""

_AT_A_TIME = 128  # texts that an engine is given at once
_MOST_NATS = 700.0  # the exponential of more overflows

_Text = TypeVar("_Text")


class Models:
    """The incumbent and the base model.

    Args:
        weights: the folder of a role's weights and their policy hash.
        engine: the engine for such weights.
        progress: where scoring shows that it is getting on.

    Attributes:
        tokens: what all models together have read so far.
        harness: what an engine that was asked says of itself; empty while none was.
    """

    def __init__(
        self,
        weights: Callable[[Role], tuple[Path, str]],
        engine: Callable[[Path, str], Engine],
        progress: Progress,
    ) -> None:
        self._weights, self._engine, self.progress = weights, engine, progress
        self._found: dict[Role, tuple[Path, str]] = {}
        self.tokens = 0
        self.harness: dict[str, Any] = {}

    def folder(self, role: Role) -> Path:
        """Where the role's weights are, for a step that needs more of them than an engine gives."""
        return self._located(role)[0]

    def count(self, tokens: int) -> None:
        """Adds tokens that a step put through a model without an engine."""
        self.tokens += tokens

    def logprobs(self, role: Role, pairs: Sequence[Pair], label: str) -> list[list[float]]:
        """`Engine.logprobs` of the role's model; `label` is what the progress bar is called."""
        engine, found = self._asked(role), []
        for part, on_tokens in self._parts(pairs, label):
            found += engine.logprobs(part, on_tokens)
        return found

    def losses(self, role: Role, pairs: Sequence[Pair], label: str) -> list[float | None]:
        """The mean loss of each response's tokens, in nats a token; none where it has none to predict."""
        logprobs = self.logprobs(role, pairs, label)
        return [-sum(tokens) / len(tokens) if tokens else None for tokens in logprobs]

    def embed(self, role: Role, texts: Sequence[str], label: str) -> np.ndarray:
        """`Engine.embed` of the role's model: (texts, hidden)."""
        engine = self._asked(role)
        parts = self._parts(texts, label)
        return np.concatenate([engine.embed(part, on_tokens) for part, on_tokens in parts])

    def _parts(
        self, texts: Sequence[_Text], label: str
    ) -> Iterator[tuple[Sequence[_Text], Callable[[int], None]]]:
        with self.progress.stage(label, total=len(texts), unit="texts") as bar:

            def on_tokens(read: int) -> None:
                self.count(read)
                bar.advance(0)  # a sign of life: a kill need not wait for the whole part

            for start in range(0, max(1, len(texts)), _AT_A_TIME):
                part = texts[start : start + _AT_A_TIME]
                yield part, on_tokens
                bar.advance(len(part))

    def _asked(self, role: Role) -> Engine:
        engine = self._engine(*self._located(role))
        self.harness = engine.describe()
        return engine

    def _located(self, role: Role) -> tuple[Path, str]:
        if role not in self._found:
            self._found[role] = self._weights(role)
        return self._found[role]


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats a token, as large as a float can tell."""
    return math.exp(min(loss, _MOST_NATS))
