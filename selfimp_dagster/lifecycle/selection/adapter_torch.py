"""A policy with a LoRA adapter: for steps that look at what training would do. Imported when one runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from selfimp_dagster.lifecycle.selection.models import Pair
from selfimp_dagster.models.loading import load_model, load_tokenizer

BATCH = 8
"""Rows that are computed, and in training learnt from, at once."""

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of Adam
_PROJECTED = 4096  # parameters whose signs are in memory at once


@dataclass(frozen=True)
class Example:
    """One row as tokens; those from `answer` on are learnt, the end of the turn among them."""

    tokens: tuple[int, ...]
    answer: int


class AdaptedPolicy:
    """The weights in a folder, fixed, and a LoRA adapter on all their linear layers, in float32.

    Args:
        folder: a model in safetensors format.
        rank: of the adapter.
        learning_rate: constant, of Adam.
        seed: of the adapter's first values; it begins as no change of the policy.
        on_tokens: called with the tokens that went through the model.
    """

    def __init__(
        self, folder: Path, *, rank: int, learning_rate: float, seed: int, on_tokens: Callable[[int], None]
    ) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._learning_rate, self._on_tokens = learning_rate, on_tokens
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng():
            torch.manual_seed(seed % 2**32)
            self._model = get_peft_model(load_model(folder, dtype="float32"), config)
        self.weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._initial = [weight.detach().clone() for weight in self.weights]
        self.reset()

    def reset(self) -> None:
        """Makes the adapter what it was at first."""
        with torch.no_grad():
            for weight, initial in zip(self.weights, self._initial, strict=True):
                weight.copy_(initial)
        self._optimizer = torch.optim.Adam(self.weights, self._learning_rate, _BETAS, _EPSILON)

    @property
    def moments(self) -> torch.Tensor:
        """Adam's running means of the adapter's gradient and of its square: (2, parameters)."""
        states = [self._optimizer.state[weight] for weight in self.weights]
        return torch.stack(
            [torch.cat([state[name].flatten() for state in states]) for name in ("exp_avg", "exp_avg_sq")]
        )

    def encode(self, pairs: Sequence[Pair]) -> list[Example]:
        """The pairs as the chat template writes them, up to the end of the answer's turn."""
        found = []
        for messages, response in pairs:
            asked = self._template(list(messages), add_generation_prompt=True)
            whole = self._template([*messages, {"role": "assistant", "content": response}])
            turn = whole[len(asked) :]
            end = self._tokenizer.eos_token_id
            length = turn.index(end) + 1 if end in turn else len(turn)
            found.append(Example((*asked, *turn[:length]), len(asked)))
        return found

    def train(self, examples: Sequence[Example], seed: int) -> Iterator[int]:
        """One epoch in an order that the seed gives; yields how many examples each batch had."""
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed % 2**32)).tolist()
        for start in range(0, len(examples), BATCH):
            batch = [examples[place] for place in order[start : start + BATCH]]
            losses, tokens = self._losses(batch)
            gradients = torch.autograd.grad(losses.sum() / tokens.sum(), self.weights)
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient
            self._optimizer.step()
            yield len(batch)

    @torch.no_grad()
    def losses(self, examples: Sequence[Example], *, adapted: bool) -> list[float]:
        """The mean loss of each example's answer, in nats a token, with the adapter or without it."""
        found: list[float] = []
        for start in range(0, len(examples), BATCH):
            with nullcontext() if adapted else self._model.disable_adapter():
                losses, tokens = self._losses(examples[start : start + BATCH])
            found += (losses / tokens).tolist()
        return found

    def gradient(self, example: Example) -> torch.Tensor:
        """The gradient of the mean loss of the example's answer by the adapter: (parameters,)."""
        losses, tokens = self._losses([example])
        gradients = torch.autograd.grad((losses / tokens).sum(), self.weights)
        return torch.cat([gradient.flatten() for gradient in gradients])

    def _template(self, messages: list[dict[str, str]], **options: bool) -> list[int]:
        ids: list[int] = self._tokenizer.apply_chat_template(messages, return_dict=True, **options)[
            "input_ids"
        ]
        return ids

    def _losses(self, batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each example's summed loss and how many tokens it is over: (examples,) both."""
        device = self._model.device
        width, first = max(len(e.tokens) for e in batch), min(e.answer for e in batch)
        ids = torch.tensor([[*e.tokens, *[0] * (width - len(e.tokens))] for e in batch], device=device)
        places = torch.arange(width, device=device)[None]
        there = places < torch.tensor([len(e.tokens) for e in batch], device=device)[:, None]
        learnt = there & (places >= torch.tensor([e.answer for e in batch], device=device)[:, None])
        logits = self._model(
            input_ids=ids, attention_mask=there.long(), use_cache=False, logits_to_keep=width - first + 1
        ).logits[:, :-1]
        self._on_tokens(int(there.sum()))
        losses = cross_entropy(logits.transpose(1, 2), ids[:, first:], reduction="none")
        return (losses * learnt[:, first:]).sum(1), learnt.sum(1)


def adam_direction(gradients: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Where Adam would go for each gradient, up to its sign, from the moments that it has."""
    mean = _BETAS[0] * moments[0] + (1 - _BETAS[0]) * gradients
    square = _BETAS[1] * moments[1] + (1 - _BETAS[1]) * gradients**2
    return mean / (square + _EPSILON).sqrt()


def projected(vectors: torch.Tensor, dimensions: int, seed: int) -> torch.Tensor:
    """Random projections that keep lengths and angles on average, by signs: (vectors, dimensions).

    Equal dimensions and seed give the same projection (Johnson and Lindenstrauss; Rademacher signs).

    Args:
        vectors: shape (vectors, parameters).
    """
    signs_of = torch.Generator().manual_seed(seed % 2**32)
    found = torch.zeros(len(vectors), dimensions, device=vectors.device)
    for part in torch.split(vectors, _PROJECTED, dim=1):
        bits = torch.randint(0, 2, (part.shape[1], dimensions), generator=signs_of, dtype=torch.int8)
        found += part @ (2 * bits - 1).to(part)
    return found / dimensions**0.5
