"""Whether an engine computes what its weights say: held against plain transformers before it is trusted.

An engine answers a few prompts greedily, all at once, and reads its answers. Plain transformers reads the
same answers one by one in float32 and in the engine's own numerics. What lies between the two is rounding;
an engine that lies farther outside than rounding leads elsewhere is wrong, or runs other weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimp_dagster.engines.base import Engine, Message, Request, Sampling
from selfimp_dagster.models.loading import DtypeName, load_model, pick_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_LEAST = 1e-3  # nats; other kernels sum in another order, which moves float32 by some 1e-5
_TIMES = 2  # an engine may err twice as much as plain transformers in its numerics
_DEVIATIONS = 6  # four standard deviations of a difference of two tokens, each with an error of its own
_LIKELY = 20  # tokens at each place whose rounding is looked at


@dataclass(frozen=True)
class ParityAnswer:
    """One greedy answer. Log-probabilities are in nats and of its tokens together.

    Attributes:
        drawn: what the engine said while it drew the answer, its end included.
        drawn_off: how far that lies outside of what plain transformers says in the two numerics.
        errors: the same of each token when the engine read the answer, without the end.
        noise: what rounding does: plain transformers in the engine's numerics less float32, of the likeliest
            tokens at each place. The tokens of the answer may be all but certain, which would hide it.
        behind: how much likelier the likeliest token was than the engine's, in the numerics in which that is
            less, and of all tokens the most.
    """

    prompt: str
    response: str
    drawn: float
    drawn_off: float
    errors: tuple[float, ...]
    noise: tuple[float, ...]
    behind: float
    tokens: int


@dataclass(frozen=True)
class Parity:
    """An engine beside plain transformers.

    Attributes:
        error, noise: root mean square of the answers' errors and noise, in nats.
        drift: `drawn_off` per token, of all answers the most.
        behind: the largest distance of a greedy token to the likeliest.
        unplaced: answers whose text is not that of the tokens that were drawn, which nothing can be said of.
    """

    engine: dict[str, Any]
    answers: tuple[ParityAnswer, ...] = field(repr=False)
    unplaced: int

    @property
    def noise(self) -> float:
        return _rms([value for answer in self.answers for value in answer.noise])

    @property
    def error(self) -> float:
        return _rms([value for answer in self.answers for value in answer.errors])

    @property
    def drift(self) -> float:
        return max((answer.drawn_off / answer.tokens for answer in self.answers), default=0.0)

    @property
    def behind(self) -> float:
        return max((answer.behind for answer in self.answers), default=0.0)

    @property
    def faults(self) -> list[str]:
        """What is wrong with the engine, in words; nothing if it may be trusted."""
        far, tie = _LEAST + _TIMES * self.noise, _LEAST + _DEVIATIONS * self.noise
        found = []
        if not self.answers:
            found.append("none of its answers could be read")
        if not self.error <= far:
            found.append(f"it reads tokens {self.error:.4f} nats off, where {far:.4f} would be rounding")
        if not self.drift <= far:
            found.append(
                f"it draws tokens with log-probabilities {self.drift:.4f} nats off, where {far:.4f} would be "
                "rounding"
            )
        if not self.behind <= tie:
            found.append(
                f"a greedy token lies {self.behind:.4f} nats behind the likeliest, {tie:.4f} is a tie"
            )
        return found

    def figures(self) -> dict[str, Any]:
        """A row for people: which engine, and how far it is off."""
        return {
            **{name: self.engine[name] for name in ("engine", "dtype", "device")},
            "answers": len(self.answers),
            "unplaced": self.unplaced,
            **{name: getattr(self, name) for name in ("error", "noise", "drift", "behind")},
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each answer, in the same numerics."""
        return [
            {
                "dtype": self.engine["dtype"],
                **{name: getattr(answer, name) for name in ("prompt", "response", "drawn", "drawn_off")},
                "error": _rms(answer.errors),
                "behind": answer.behind,
            }
            for answer in self.answers
        ]


def measure_parity(
    engine: Engine, folder: Path, chats: Sequence[tuple[Message, ...]], *, max_new_tokens: int
) -> Parity:
    """Holds an engine against plain transformers on the weights in `folder`.

    Raises:
        SelfimpError: the folder does not hold a model.
    """
    from selfimp_dagster.engines.chat_tokens import ChatTokens

    requests = [Request(str(place), messages, 0) for place, messages in enumerate(chats)]
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0)
    answers = [answer for batch in engine.generate(requests, sampling) for answer in batch]
    answers.sort(key=lambda answer: int(answer.request_id))
    read = engine.logprobs(
        [(messages, answer.response) for messages, answer in zip(chats, answers, strict=True)]
    )
    described = engine.describe()
    truth, plain = _plain_models(folder, described["dtype"])
    spoken = ChatTokens(folder)
    ends = sorted(spoken.ends(truth.generation_config))
    found = []
    for messages, answer, said in zip(chats, answers, read, strict=True):
        tokens = spoken.text(answer.response)
        ended = answer.finish_reason == "stop"
        if len(tokens) + ended != answer.completion_tokens or len(said) != len(tokens):
            continue
        asked = spoken.prompt(messages), tokens
        right, rounded = (_logprobs(model, *asked) for model in (truth, plain))
        (values, behind), (others, others_behind) = (
            _read(each, tokens, ends if ended else []) for each in (right, rounded)
        )
        found.append(
            ParityAnswer(
                prompt=messages[-1]["content"],
                response=answer.response,
                drawn=answer.sum_logprob,
                drawn_off=_outside(answer.sum_logprob, sum(values), sum(others)),
                errors=tuple(map(_outside, said, values, others)),
                noise=_rounding(right, rounded),
                behind=max(map(min, behind, others_behind)),
                tokens=len(values),
            )
        )
    return Parity(described, tuple(found), len(answers) - len(found))


def _plain_models(folder: Path, dtype: DtypeName) -> tuple["PreTrainedModel", "PreTrainedModel"]:
    """The weights in float32 and in `dtype`, with the attention that they come with."""
    device = pick_device("auto")
    truth = load_model(folder, "float32", device)
    return truth, truth if dtype == "float32" else load_model(folder, dtype, device)


def _logprobs(model: "PreTrainedModel", prompt: Sequence[int], tokens: Sequence[int]) -> "torch.Tensor":
    """Log-probabilities at the place of each token after the prompt and behind the last.

    Shape (tokens + 1, vocabulary), in nats.
    """
    import torch

    with torch.inference_mode():
        read = model(torch.tensor([[*prompt, *tokens]], device=model.device))
    return read.logits[0, len(prompt) - 1 :].float().log_softmax(-1)


def _read(
    logprobs: "torch.Tensor", tokens: Sequence[int], ends: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Of each token its log-probability, and how far it lies behind the likeliest, in nats.

    Where the answer ended, its last token is the likeliest of those that end a turn.
    """
    chosen = [float(logprobs[place, token]) for place, token in enumerate(tokens)]
    if ends:
        chosen.append(float(logprobs[-1, ends].max()))
    best = logprobs.max(-1).values.tolist()
    return chosen, [top - mine for top, mine in zip(best, chosen, strict=False)]


def _rounding(right: "torch.Tensor", rounded: "torch.Tensor") -> tuple[float, ...]:
    """Differences of the likeliest tokens at each place."""
    likely = right.topk(min(_LIKELY, right.shape[-1]), -1).indices
    return tuple((rounded - right).gather(-1, likely).flatten().tolist())


def _outside(value: float, one: float, other: float) -> float:
    """How far a value lies outside of what lies between two others."""
    return max(min(one, other) - value, value - max(one, other), 0.0) if value == value else value


def _rms(values: Sequence[float]) -> float:
    return float((sum(value * value for value in values) / max(1, len(values))) ** 0.5)
