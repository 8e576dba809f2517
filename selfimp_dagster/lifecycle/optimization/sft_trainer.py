"""The part of `sft` that needs torch and TRL; imported when training begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from trl import SFTConfig, SFTTrainer

from selfimp_dagster.lifecycle.optimization.prefix_tree import IGNORED, PrefixTree
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
        [
            {
                "prompt": messages,
                "completion": [{"role": "assistant", "content": response}],
                _WEIGHT: weight,
            }
            for (messages, response), weight in zip(
                rows.select("messages", "response").iter_rows(), weights, strict=True
            )
        ]
    )
    trainer = CompletionTrainer(
        model=model,
        args=SFTConfig(
            **arguments(context, parameters, len(dataset), str(model.device)),
            train_sampling_strategy="group_by_length",
            completion_only_loss=True,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter(parameters),
    )
    return run(trainer, "sft", context, parameters)


class CompletionTrainer(SFTTrainer):
    """SFTTrainer that computes what the rows of a batch begin with once, and logits for answers alone.

    The rows of a task suite share their instruction, the samples of a task its whole prompt. TRL computes
    each row by itself, and on a CPU projects the masked prompt onto the vocabulary too; both together are
    most of a step (benchmarks/training.py). Where the dataset has a column `weight`, it multiplies the loss
    of a row's tokens. `tokens` counts the tokens of the rows, padding left out.
    """

    tokens = 0

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        collate: Any = self.data_collator  # type: ignore[has-type]

        def with_weights(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = collate([{name: row[name] for name in row if name != _WEIGHT} for row in rows])
            batch[_WEIGHT] = torch.tensor([row.get(_WEIGHT, 1.0) for row in rows])
            return batch

        self.data_collator = with_weights

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if _WEIGHT not in self._signature_columns:
            self._signature_columns.append(_WEIGHT)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        lengths = inputs["attention_mask"].sum(1).tolist()
        self.tokens += sum(lengths)
        tree = PrefixTree.of(
            *(
                [row[:length] for row, length in zip(inputs[part].tolist(), lengths, strict=True)]
                for part in ("input_ids", "labels")
            )
        )
        rows, length = inputs["input_ids"].shape
        if tree.is_cheaper(rows, length, self.model.config.get_text_config(decoder=True).hidden_size):
            outputs, logits, targets = predictions_on_tree(model, tree, inputs["input_ids"].device)
        else:
            outputs, logits, targets = predictions_on_rows(model, inputs)
        labelled = (inputs["labels"][:, 1:] != IGNORED).sum(1)
        weights = inputs[_WEIGHT].repeat_interleave(labelled)  # the order of the targets in either case
        total = (weights * cross_entropy(logits.float(), targets, reduction="none")).sum()
        loss = total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
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
