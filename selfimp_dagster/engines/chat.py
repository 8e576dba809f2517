"""Asking a model in words, whatever runs it: what judges and teachers need. Importing this costs no torch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from selfimp_dagster.engines.base import Engine, Request, Sampling

_ASKED_AT_ONCE = 64  # requests whose options an engine reads before it gives a sign of life


@dataclass(frozen=True)
class Reply:
    """What a model said to one request. `failure` says why it said nothing; it is empty where it did.

    A model that does not count its tokens leaves the counts at 0.
    """

    request_id: str
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: Literal["stop", "length"] = "stop"
    failure: str = ""


@dataclass(frozen=True)
class Choice:
    """How probable each of the offered replies is, in their order; they need not add up to one.

    `failure` says why that is not known; it is empty where it is.
    """

    request_id: str
    probabilities: tuple[float, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failure: str = ""


class Chat(Protocol):
    """A model that answers chats.

    `policy_hash` is that of its weights, None where nobody can see them. `identity` stands for all that its
    answers depend on besides the request. Both methods yield in batches, every request exactly once; what a
    request came to depends on the request alone, and one that failed says so.
    """

    policy_hash: str | None
    identity: str

    def ask(
        self, requests: Sequence[Request], sampling: Sampling, on_tokens: Callable[[int], None] = ...
    ) -> Iterator[list[Reply]]: ...

    def choose(
        self, requests: Sequence[Request], options: Sequence[str], on_tokens: Callable[[int], None] = ...
    ) -> Iterator[list[Choice]]: ...

    def describe(self) -> dict[str, Any]:
        """What runs it, for people."""
        ...


class EngineChat:
    """The weights of an engine, asked in words."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.policy_hash: str | None = engine.policy_hash
        self.identity = engine.policy_hash

    def ask(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Reply]]:
        """The completions of the engine."""
        for batch in self._engine.generate(requests, sampling, on_tokens):
            yield [
                Reply(c.request_id, c.response, c.prompt_tokens, c.completion_tokens, c.finish_reason)
                for c in batch
            ]

    def choose(
        self,
        requests: Sequence[Request],
        options: Sequence[str],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Choice]]:
        """The probability that a reply begins with each option, under the untempered policy."""
        for start in range(0, len(requests), _ASKED_AT_ONCE):
            batch = requests[start : start + _ASKED_AT_ONCE]
            pairs = [(request.messages, option) for request in batch for option in options]
            logprobs = self._engine.logprobs(pairs)
            choices = []
            for number, request in enumerate(batch):
                own = logprobs[number * len(options) : (number + 1) * len(options)]
                # The engine reads the prompt once for all options of one token.
                readings = len({place if len(tokens) > 1 else -1 for place, tokens in enumerate(own)})
                choices.append(
                    Choice(
                        request.request_id,
                        probabilities=tuple(math.exp(sum(tokens)) for tokens in own),
                        prompt_tokens=readings * self._engine.prompt_tokens(request.messages),
                        completion_tokens=sum(len(tokens) for tokens in own),
                    )
                )
            on_tokens(sum(choice.completion_tokens for choice in choices))
            yield choices

    def describe(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return self._engine.describe()
