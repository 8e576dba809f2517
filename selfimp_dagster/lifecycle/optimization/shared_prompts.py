"""Answers scored for TRL's trainers with what the rows begin with computed once; needs torch."""

from functools import wraps
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import linear
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from selfimp_dagster.lifecycle.optimization.prefix_tree import (
    IGNORED,
    PrefixTree,
    distinct_prefixes,
    is_cheaper,
)

_READS = {"input_ids", "attention_mask", "use_cache"}  # what a batch of plain text comes with
_SCALES = (  # settings of architectures that do more to the last state than to project it
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
_MOST_LOGITS = 2**28  # 1 GiB in float32; TRL's tiles need less


def share_prompts(model: PreTrainedModel | PeftModel, temperature: float = 1.0) -> None:
    """Has the model score answers with the beginnings that rows share computed once, where that is cheaper.

    Pairs share their prompt, groups too, and all tasks of a suite their instruction. A trainer of TRL asks
    `model(..., labels=labels, fused_lm_head=True)` for the log-probabilities of labelled tokens; on a CPU its
    own head reads each row by itself and projects the prompts onto the vocabulary as well. To be called after
    the trainer was made. Equal to TRL's up to rounding (the projection is in float32), but that the entropy
    carries no gradient.

    Args:
        model: what the trainer trains, or its reference.
        temperature: that logits are divided by.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = base.config.get_text_config(decoder=True)
    head = base.get_output_embeddings()
    if any(getattr(config, name, None) is not None for name in _SCALES):
        return
    as_before = base.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **asked: Any) -> Any:
        if fused_lm_head and not args and _READS | {"labels"} >= asked.keys() >= _READS - {"use_cache"}:
            batch = _Batch(asked["input_ids"], asked["attention_mask"], asked["labels"])
            if batch.begins_with_prompts and batch.labelled.sum() * head.out_features <= _MOST_LOGITS:
                states = batch.states(getattr(self, self.base_model_prefix), config.hidden_size)
                return _scored(batch, states, head, temperature)
        if fused_lm_head:
            asked["fused_lm_head"] = True
        return as_before(*args, **asked)

    base.forward = MethodType(wraps(type(base).forward)(forward), base)  # `generate` looks at the signature


class _Batch:
    """A padded batch, with its rows moved to the left."""

    def __init__(self, tokens: torch.Tensor, attended: torch.Tensor, labels: torch.Tensor) -> None:
        self.labelled = labels[:, 1:] != IGNORED
        """Which tokens are asked for, from the second of each padded row on: (rows, length - 1)."""
        self._lengths = attended.sum(1)
        order = attended.argsort(dim=1, descending=True, stable=True)
        self._tokens, self._labels = tokens.gather(1, order), labels.gather(1, order)
        self.targets = labels[:, 1:][self.labelled]

    @property
    def begins_with_prompts(self) -> bool:
        """Whether something stands before every token that is asked for."""
        return bool((self._labels[:, 0] == IGNORED).all())

    def states(self, backbone: Any, hidden_size: int) -> torch.Tensor:
        """The last states of what stands before each target: (targets, hidden)."""
        rows, length = self._tokens.shape
        device = self._tokens.device
        if is_cheaper(distinct_prefixes(self._tokens, self._lengths), rows, length, hidden_size):
            tree = PrefixTree.of(
                *(
                    [row[:end] for row, end in zip(part.tolist(), self._lengths.tolist(), strict=True)]
                    for part in (self._tokens, self._labels)
                )
            )
            read = backbone(
                input_ids=torch.tensor([tree.tokens], device=device),
                position_ids=torch.tensor([tree.depths], device=device),
                attention_mask=tree.visible().to(device)[None, None],
                use_cache=False,
            )
            return read.last_hidden_state[0, torch.tensor(tree.sources, device=device)]
        attended = torch.arange(length, device=device) < self._lengths[:, None]
        read = backbone(input_ids=self._tokens, attention_mask=attended.long(), use_cache=False)
        return read.last_hidden_state[:, :-1][self._labels[:, 1:] != IGNORED]


def _scored(batch: _Batch, states: torch.Tensor, head: Any, temperature: float) -> FusedCausalLMOutput:
    """What TRL's own head returns for the batch."""
    with torch.autocast(states.device.type, enabled=False):
        logits = linear(states.float(), head.weight.float(), head.bias) / temperature
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(1, batch.targets[:, None])[:, 0]
    with torch.no_grad():
        told = {
            "entropy": -(log_probs.exp() * log_probs).sum(-1),
            "log_sum_sq_probs": (2 * log_probs).logsumexp(-1),
            "mean_logits": logits.mean(-1),
            "is_top1": logits.argmax(-1) == batch.targets,
        }
    placed = {
        name: values.new_zeros(batch.labelled.shape).masked_scatter(batch.labelled, values)
        for name, values in {"log_probs": chosen, **told}.items()
    }
    return FusedCausalLMOutput(
        loss=-chosen.sum() / batch.labelled.sum().clamp(min=1), label_mask=batch.labelled, **placed
    )
