"""The part of `sft` that needs torch and TRL; imported when training begins."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.prefix_tree import IGNORED, PrefixTree
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext
from selfimp_dagster.models.loading import load_model, load_tokenizer, pick_dtype
from selfimp_dagster.progress import Bar
from selfimp_dagster.records import TRAINING_CURVE, frame

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.optimization.sft import Sft

_WHERE = "checkpoint: recipe.optimization"


def train(
    rows: pl.DataFrame, start: Path, context: OptimizationContext, parameters: "Sft"
) -> tuple[pl.DataFrame, int]:
    """Trains on the rows from the weights in `start` and saves the candidate.

    Returns the curve (records.TRAINING_CURVE) and the tokens that went through the model.
    """
    disable_progress_bars()  # progress goes where the caller wants it
    torch.manual_seed(context.seed % 2**32)
    tokenizer = load_tokenizer(start)
    model = load_model(start, dtype="float32")
    if parameters.upper_layers is not None:
        fix_lower_layers(model, parameters.upper_layers)
    dataset = Dataset.from_list(
        [
            {"prompt": messages, "completion": [{"role": "assistant", "content": response}]}
            for messages, response in rows.select("messages", "response").iter_rows()
        ]
    )
    trainer = CompletionTrainer(
        model=model,
        args=_arguments(parameters, context, len(dataset), str(model.device)),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=_adapter(parameters),
    )
    trainer.remove_callback(PrinterCallback)
    steps = trainer.args.max_steps
    with context.progress.stage("training", total=steps, unit="steps") as bar:
        trainer.add_callback(_Watch(bar))
        trainer.train()
    curve = _curve(trainer.state.log_history)
    if not curve["loss"].is_finite().all():
        raise SelfimpError(
            "the training loss is not finite",
            where=_WHERE,
            fix="lower learning_rate or raise warmup, then materialize checkpoint again",
        )
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if parameters.lora_rank is not None:
        trained = trained.merge_and_unload()
    trained.save_pretrained(context.output)
    tokenizer.save_pretrained(context.output)
    return curve, trainer.tokens


class CompletionTrainer(SFTTrainer):
    """SFTTrainer that computes what the rows of a batch begin with once, and logits for answers alone.

    The rows of a task suite share their instruction, the samples of a task its whole prompt. TRL computes
    each row by itself, and on a CPU projects the masked prompt onto the vocabulary too; both together are
    most of a step (benchmarks/training.py). `tokens` counts the tokens of the rows, padding left out.
    """

    tokens = 0

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
        total = cross_entropy(logits.float(), targets, reduction="sum")
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


class _Watch(TrainerCallback):
    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._bar.advance(1)


def _arguments(parameters: "Sft", context: OptimizationContext, rows: int, device: str) -> SFTConfig:
    steps = max(1, round(parameters.epochs * rows / parameters.batch_size))
    if parameters.most_steps is not None:
        steps = min(steps, parameters.most_steps)
    return SFTConfig(
        output_dir=str(context.output.with_name(".trainer")),
        max_steps=steps,
        per_device_train_batch_size=parameters.batch_size,
        learning_rate=parameters.learning_rate,
        lr_scheduler_type=parameters.schedule,
        warmup_steps=round(parameters.warmup * steps),
        weight_decay=parameters.weight_decay,
        optim="adamw_torch_fused",
        bf16=pick_dtype("auto", device) == torch.bfloat16,
        gradient_checkpointing=False,
        train_sampling_strategy="group_by_length",
        completion_only_loss=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=context.seed % 2**32,
        use_cpu=device == "cpu",
    )


def _adapter(parameters: "Sft") -> LoraConfig | None:
    if parameters.lora_rank is None:
        return None
    return LoraConfig(
        r=parameters.lora_rank,
        lora_alpha=2 * parameters.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def fix_lower_layers(model: PreTrainedModel, upper: int) -> None:
    layers = model.get_decoder().layers
    if upper > len(layers):
        raise SelfimpError(
            f"upper_layers is {upper}, the model has {len(layers)} layers",
            where=_WHERE,
            fix=f"name at most {len(layers)}, or leave it out to train all weights",
        )
    model.get_input_embeddings().requires_grad_(False)
    for layer in layers[: len(layers) - upper]:
        layer.requires_grad_(False)


def _curve(history: list[dict[str, Any]]) -> pl.DataFrame:
    return frame(
        (
            {
                "step": entry["step"],
                "epoch": entry["epoch"],
                "loss": entry["loss"],
                "learning_rate": entry["learning_rate"],
                "grad_norm": entry["grad_norm"],
            }
            for entry in history
            if "loss" in entry
        ),
        TRAINING_CURVE,
    )
