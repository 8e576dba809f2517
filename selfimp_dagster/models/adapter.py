"""A LoRA adapter on a model that is there: trained for a while, and taken away again. Needs torch."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfimp_dagster.engines.base import Message

BATCH = 8
"""Rows that are computed, and in training learnt from, at once."""

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam."""

Pair = tuple[tuple[Message, ...], str]
"""What is asked, and a response to it."""


@dataclass(frozen=True)
class Example:
    """One row as tokens; those from `answer` on are learnt, the end of the turn among them."""

    tokens: tuple[int, ...]
    answer: int


class Adapter:
    """An adapter on all linear layers of a model, whose own weights stay as they are.

    Args:
        model: gets the adapter in place; `remove` takes it away.
        rank: of the adapter.
        learning_rate: constant, of Adam.
        seed: of the adapter's first values; it begins as no change of the model.
        on_tokens: called with the tokens that went through the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        rank: int,
        learning_rate: float,
        seed: int,
        on_tokens: Callable[[int], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._learning_rate, self._on_tokens = learning_rate, on_tokens
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng():
            torch.manual_seed(seed % 2**32)
            self._model = get_peft_model(model, config)
        self.weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._initial = [weight.detach().clone() for weight in self.weights]
        self.reset()

    def reset(self) -> None:
        """Makes the adapter what it was at first."""
        with torch.no_grad():
            for weight, initial in zip(self.weights, self._initial, strict=True):
                weight.copy_(initial)
        self._optimizer = torch.optim.Adam(self.weights, self._learning_rate, BETAS, EPSILON)

    def remove(self) -> None:
        """Takes the adapter away: the model computes what it did before, to the last bit.

        PEFT leaves its weights marked as fixed, and torch may compute with fixed weights in another order.
        """
        self._model.unload()
        for weight in self._trained:
            weight.requires_grad_(True)

    def fingerprint(self) -> str:
        """The SHA-256 of the adapter's values as they are now."""
        return tensors_sha256((str(place), weight) for place, weight in enumerate(self.weights))

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

    def step(self, examples: Sequence[Example], weights: Sequence[float]) -> None:
        """One step of Adam on the mean over the examples of weight * mean loss of the answer's tokens.

        With weights of 1 it is supervised fine-tuning; with advantages as weights, of responses that were
        drawn with the adapter as it is, the gradient is that of GRPO, whose probability ratios are all 1.
        """
        total = [torch.zeros_like(weight) for weight in self.weights]
        for start in range(0, len(examples), BATCH):
            losses, tokens = self._losses(examples[start : start + BATCH])
            share = torch.tensor(weights[start : start + BATCH], device=losses.device) / len(examples)
            gradients = torch.autograd.grad((share * losses / tokens).sum(), self.weights)
            for sum_, gradient in zip(total, gradients, strict=True):
                sum_ += gradient
        for weight, gradient in zip(self.weights, total, strict=True):
            weight.grad = gradient
        self._optimizer.step()

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
        losses = cross_entropy(logits.float().transpose(1, 2), ids[:, first:], reduction="none")
        return (losses * learnt[:, first:]).sum(1), learnt.sum(1)


def tensors_sha256(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The SHA-256 of names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
