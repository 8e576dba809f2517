"""The part of `sft` that needs torch and TRL; imported when training begins."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer
from trl.data_utils import common_prefix_length

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.optimization.halving import Batch, Halving, Part
from selfimp_dagster.lifecycle.optimization.prefix_tree import (
    IGNORED,
    PrefixTree,
    distinct_prefixes,
    is_cheaper,
)
from selfimp_dagster.lifecycle.optimization.training import adapter, arguments, prepare, run
from selfimp_dagster.lifecycle.optimization.update import Curve, OptimizationContext

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.optimization.sft import Sft

_WEIGHT = "weight"


def train(
    rows: pl.DataFrame,
    weights: Sequence[float],
    start: Path,
    context: OptimizationContext,
    parameters: "Sft",
) -> Curve:
    """Trains on the rows from the weights in `start` and saves the candidate; `weights` are of the rows."""
    model, tokenizer = prepare(start, context, parameters)
    dataset = Dataset.from_list(
        tokenized(tokenizer, list(rows.select("messages", "response").iter_rows()), weights)
    )
    trainer = CompletionTrainer(
        model=model,
        args=SFTConfig(
            **arguments(context, parameters, len(dataset), str(model.device)),
            train_sampling_strategy="group_by_length",
            max_length=None,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter(parameters),
    )
    return run(trainer, "sft", context, parameters)


def tokenized(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[list[Message], str]],
    weights: Sequence[float],
) -> list[dict[str, Any]]:
    """Chats with their responses as TRL wants prepared rows, all of them at once: row by row TRL's own
    preparation takes longer than a small model takes to learn."""
    prompts = [messages for messages, _ in rows]
    chats = [[*messages, {"role": "assistant", "content": response}] for messages, response in rows]
    asked, whole = (
        tokenizer.apply_chat_template(texts, add_generation_prompt=ask, return_dict=True)["input_ids"]
        for texts, ask in ((prompts, True), (chats, False))
    )
    found = []
    for prompt, tokens, weight in zip(asked, whole, weights, strict=True):
        shown = common_prefix_length(prompt, tokens)
        labels = [IGNORED] * shown + tokens[shown:]
        found.append({"input_ids": tokens, "labels": labels, _WEIGHT: weight})
    return found


class CompletionTrainer(Halving, SFTTrainer):
    """SFTTrainer that computes what the rows of a batch begin with once, and logits for answers alone.

    The rows of a task suite share their instruction, the samples of a task its whole prompt. TRL computes
    each row by itself, and on a CPU projects the masked prompt onto the vocabulary too; both together are
    most of a step (benchmarks/training.py). Where the dataset has a column `weight`, it multiplies the loss
    of a row's tokens.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        prepared: Any = self.train_dataset  # type: ignore[has-type]
        self.train_dataset = prepared.to_list()  # Arrow takes longer to hand out a row
        self.data_collator = self._batch

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        padding = {"input_ids": self.processing_class.pad_token_id, "labels": IGNORED}
        batch = {
            part: torch.tensor([row[part] + [filler] * (width - len(row[part])) for row in rows])
            for part, filler in padding.items()
        }
        lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
        batch["attention_mask"] = (torch.arange(width) < lengths).long()
        batch[_WEIGHT] = torch.tensor([row.get(_WEIGHT, 1.0) for row in rows])
        return batch

    def _get_train_sampler(self, dataset: Any = None) -> LengthGroupedSampler:
        """Rows of about one length together, in the order of one process however many there are."""
        together = self._train_batch_size * self.accelerator.num_processes
        return LengthGroupedSampler(together, lengths=[len(row["input_ids"]) for row in self.train_dataset])

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if _WEIGHT not in self._signature_columns:
            self._signature_columns.append(_WEIGHT)

    def parts_of(self, batch: Batch, count: int) -> Iterator[Part]:
        """The rows in parts, whose losses add up: they are divided by the tokens of the whole batch."""
        for part, _ in super().parts_of(batch, count):
            yield part, 1.0

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labelled = (inputs["labels"][:, 1:] != IGNORED).sum()
        return super().compute_loss(
            model, inputs, return_outputs, labelled if num_items_in_batch is None else num_items_in_batch
        )

    def loss_of(self, model: Any, inputs: Batch, return_outputs: bool, num_items_in_batch: Any) -> Any:
        lengths = inputs["attention_mask"].sum(1)
        self.tokens += int(lengths.sum())
        rows, length = inputs["input_ids"].shape
        nodes = distinct_prefixes(inputs["input_ids"], lengths)
        if is_cheaper(nodes, rows, length, self.model.config.get_text_config(decoder=True).hidden_size):
            tree = PrefixTree.of(
                *(
                    [row[:end] for row, end in zip(inputs[part].tolist(), lengths.tolist(), strict=True)]
                    for part in ("input_ids", "labels")
                )
            )
            outputs, logits, targets = predictions_on_tree(model, tree, inputs["input_ids"].device)
        else:
            outputs, logits, targets = predictions_on_rows(model, inputs)
        labelled = (inputs["labels"][:, 1:] != IGNORED).sum(1)
        weights = inputs[_WEIGHT].repeat_interleave(labelled)  # the order of the targets in either case
        total = (weights * cross_entropy(logits.float(), targets, reduction="none")).sum()
        # Gradients are averaged over processes, and the items are those of all of them.
        loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


Predictions = tuple[Any, torch.Tensor, torch.Tensor]
"""A model's outputs, the logits that predict labelled tokens, (labelled, vocabulary), and those tokens."""


def predictions_on_tree(model: Any, tree: PrefixTree, device: torch.device) -> Predictions:
    outputs = model(
        input_ids=torch.tensor([tree.tokens], device=device),
        position_ids=torch.tensor([tree.depths], device=device),
        attention_mask=tree.visible().to(device)[None, None],
        use_cache=False,
        logits_to_keep=torch.tensor(tree.sources, device=device),
    )
    return outputs, outputs.logits[0], torch.tensor(tree.targets, device=device)


def predictions_on_rows(model: Any, inputs: dict[str, torch.Tensor]) -> Predictions:
    labels = inputs["labels"][:, 1:]
    places = (labels != IGNORED).any(0).nonzero()[:, 0]
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        use_cache=False,
        logits_to_keep=places,
    )
    wanted = labels[:, places]
    labelled = wanted != IGNORED
    return outputs, outputs.logits[labelled], wanted[labelled]
