"""What a stage asks of any inference engine. Importing this costs no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np

Message = dict[str, str]
"""One chat turn: `{"role": ..., "content": ...}`.

A last turn without content is open: the model itself writes it, as whoever has that role.
"""


class Sampling(BaseModel):
    """How tokens are drawn. A temperature of 0 means greedy decoding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(default=32, ge=1, description="Tokens after which a response is cut off.")
    temperature: float = Field(default=1.0, ge=0, description="Softmax temperature; 0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus mass; 1 keeps the whole vocabulary.")


class ContrastiveSampling(Sampling):
    """How tokens are drawn where an amateur's model is held against the expert's (arXiv:2210.15097)."""

    amateur: str = Field(description="Policy hash of the amateur's weights.")
    plausibility: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="alpha: tokens that the expert finds less likely than that share of its likeliest are "
        "out.",
    )
    amateur_temperature: float = Field(
        default=1.0, gt=0, description="Softmax temperature of the amateur's probabilities."
    )


@dataclass(frozen=True)
class Request:
    """One response that is wanted. Requests with equal messages share one prefill when adjacent."""

    request_id: str
    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """One response. `sum_logprob` is in nats under the untempered policy, over `completion_tokens`."""

    request_id: str
    response: str
    prompt_tokens: int
    completion_tokens: int
    sum_logprob: float
    finish_reason: Literal["stop", "length"]


class Generator(Protocol):
    """Samples from weights.

    `generate` yields completions in batches, every request exactly once. The draw of a request
    depends only on its messages, its seed and the sampling parameters, never on its neighbours,
    so that interrupted sampling can go on at the missing requests.
    """

    policy_hash: str

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_tokens: Callable[[int], None] = ...
    ) -> Iterator[list[Completion]]: ...


class Engine(Generator, Protocol):
    """Samples from one set of weights, and reads with them."""

    def logprobs(
        self, pairs: Sequence[tuple[tuple[Message, ...], str]], on_tokens: Callable[[int], None] = ...
    ) -> list[list[float]]:
        """The log-probability of each token of a response after its messages, in nats, pair by pair.

        The end of the turn is not among the tokens. Without messages the response is read by itself, and its
        first token, which nothing stands before, has no entry. An empty response has an empty list.
        `on_tokens` is called after each batch with the number of tokens that were read.
        """
        ...

    def embed(self, texts: Sequence[str], on_tokens: Callable[[int], None] = ...) -> "np.ndarray":
        """The mean of the last layer's states over each text's tokens, at unit length: (texts, hidden).

        A text without tokens has a row of zeros. `on_tokens` is called as in `logprobs`.
        """
        ...

    def prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """How many tokens the chat has that asks for a response to these messages."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that can change a score without the weights changing: engine, versions, dtype, batching."""
        ...
