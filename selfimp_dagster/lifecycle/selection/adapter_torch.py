"""A policy with a LoRA adapter: for steps that look at what training would do. Imported when one runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from selfimp_dagster.models.adapter import BATCH, BETAS, EPSILON, Adapter, Example
from selfimp_dagster.models.loading import load_model, load_tokenizer

_PROJECTED = 4096  # parameters whose signs are in memory at once


class AdaptedPolicy(Adapter):
    """The weights in a folder, fixed, and a LoRA adapter on all their linear layers, in float32.

    Args:
        folder: a model in safetensors format.
        rank, learning_rate, seed, on_tokens: as of an Adapter.
    """

    def __init__(
        self, folder: Path, *, rank: int, learning_rate: float, seed: int, on_tokens: Callable[[int], None]
    ) -> None:
        super().__init__(
            load_model(folder, dtype="float32"),
            load_tokenizer(folder),
            rank=rank,
            learning_rate=learning_rate,
            seed=seed,
            on_tokens=on_tokens,
        )

    @property
    def moments(self) -> torch.Tensor:
        """Adam's running means of the adapter's gradient and of its square: (2, parameters)."""
        states = [self._optimizer.state[weight] for weight in self.weights]
        return torch.stack(
            [torch.cat([state[name].flatten() for state in states]) for name in ("exp_avg", "exp_avg_sq")]
        )

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


def adam_direction(gradients: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Where Adam would go for each gradient, up to its sign, from the moments that it has."""
    mean = BETAS[0] * moments[0] + (1 - BETAS[0]) * gradients
    square = BETAS[1] * moments[1] + (1 - BETAS[1]) * gradients**2
    return mean / (square + EPSILON).sqrt()


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
