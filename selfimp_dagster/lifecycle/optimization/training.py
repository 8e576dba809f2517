"""What all updates share that needs torch and TRL; imported when training begins."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from datasets import disable_progress_bars
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.halving import PARTS
from selfimp_dagster.lifecycle.optimization.resuming import Saving
from selfimp_dagster.lifecycle.optimization.several import is_first, processes
from selfimp_dagster.lifecycle.optimization.update import WHERE, Curve, OptimizationContext, Schedule
from selfimp_dagster.models.loading import load_model, load_tokenizer, pick_dtype
from selfimp_dagster.progress import Bar
from selfimp_dagster.records import TRAINING_CURVE, TRAINING_METRICS, frame

_METRICS = {
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "pair_accuracy",
    "margin": "reward_margin",  # of a reward model
    "accuracy": "pair_accuracy",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "reward": "mean_reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "groups_without_contrast",
    "completions/mean_length": "mean_tokens",
    "clip_ratio/region_mean": "clipped",
    "kl": "divergence",
    "entropy": "entropy",
    PARTS: PARTS,
}
"""What is recorded of a training beside its loss, by TRL's names and by those in records.TRAINING_METRICS."""


class Watch(TrainerCallback):
    """Tells a bar of every step, which is also where a person's kill is seen."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:  # it goes on with one that was killed
            self._bar.advance(state.global_step)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._bar.advance(1)


def prepare(
    start: Path, context: OptimizationContext, parameters: Schedule
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32, with the layers held that stay as they are, and its tokenizer; sets the seed."""
    disable_progress_bars()  # progress goes where the caller wants it
    torch.manual_seed(context.seed % 2**32)
    model = load_model(start, dtype="float32")
    if parameters.upper_layers is not None:
        fix_lower_layers(model, parameters.upper_layers)
    return model, load_tokenizer(start)


def arguments(context: OptimizationContext, parameters: Schedule, rows: int, device: str) -> dict[str, Any]:
    """What every trainer of TRL is told, for training on so many rows."""
    steps = parameters.steps(rows)
    return {
        "output_dir": str(context.output.with_name(".trainer")),
        "max_steps": steps,
        "per_device_train_batch_size": parameters.batch_size // processes(),
        "learning_rate": parameters.learning_rate,
        "lr_scheduler_type": parameters.schedule,
        "warmup_steps": round(parameters.warmup * steps),
        "weight_decay": parameters.weight_decay,
        "optim": "adamw_torch_fused",
        "bf16": pick_dtype("auto", device) == torch.bfloat16,
        "gradient_checkpointing": parameters.gradient_checkpointing,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # which would log the loss of another step instead
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": context.seed % 2**32,
        "use_cpu": device == "cpu",
    }


def adapter(parameters: Schedule, task_type: str = "CAUSAL_LM") -> LoraConfig | None:
    """The LoRA adapters to train, or none; a scalar head (task type SEQ_CLS) is trained whole."""
    if parameters.lora_rank is None:
        return None
    return LoraConfig(
        r=parameters.lora_rank,
        lora_alpha=2 * parameters.lora_rank,
        target_modules="all-linear",
        task_type=task_type,
    )


def run(
    trainer: Trainer,
    update: str,
    context: OptimizationContext,
    parameters: Schedule,
    *,
    resumable: bool = True,
) -> Curve:
    """Trains, from where a killed training had come to, and saves the candidate with its tokenizer.

    The tokens of the curve are those that the trainer counts in `tokens`. Training that draws what it learns
    from is not `resumable`: what it had drawn is gone.

    Of several processes that train together the first one saves; they begin again after a kill.

    Raises:
        SelfimpError: the loss stopped being finite.
    """
    trainer.remove_callback(PrinterCallback)
    with context.progress.stage("training", total=trainer.args.max_steps, unit="steps") as bar:
        trainer.add_callback(Watch(bar))
        if resumable and processes() == 1:
            Saving(trainer).train()
        else:
            trainer.train()
    steps, metrics = _steps(trainer.state.log_history, update), _metrics(trainer.state.log_history)
    if not steps["loss"].is_finite().all():
        raise SelfimpError(
            "the training loss is not finite",
            where=WHERE,
            fix="lower learning_rate or raise warmup, then materialize checkpoint again",
        )
    trained = trainer.accelerator.unwrap_model(trainer.model)
    sharded = trainer.accelerator.get_state_dict(trainer.model) if processes() > 1 else None  # all take part
    if is_first():
        if parameters.lora_rank is not None:
            trained, sharded = trained.merge_and_unload(), None
        trained.save_pretrained(context.output, state_dict=sharded)
        trainer.processing_class.save_pretrained(context.output)
    tokens = trainer.accelerator.gather(torch.tensor([trainer.tokens], device=trainer.accelerator.device))
    return Curve(steps, metrics, int(tokens.sum()))


def fix_lower_layers(model: PreTrainedModel, upper: int) -> None:
    layers = model.get_decoder().layers
    if upper > len(layers):
        raise SelfimpError(
            f"upper_layers is {upper}, the model has {len(layers)} layers",
            where=WHERE,
            fix=f"name at most {len(layers)}, or leave it out to train all weights",
        )
    model.get_input_embeddings().requires_grad_(False)
    for layer in layers[: len(layers) - upper]:
        layer.requires_grad_(False)


def _steps(history: list[dict[str, Any]], update: str) -> pl.DataFrame:
    return frame(
        (
            {
                "step": entry["step"],
                "update": update,
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


def _metrics(history: list[dict[str, Any]]) -> pl.DataFrame:
    return frame(
        (
            {"step": entry["step"], "metric": metric, "value": entry[name]}
            for entry in history
            if "loss" in entry
            for name, metric in _METRICS.items()
            if _is_number(entry, name)
        ),
        TRAINING_METRICS,
    )


def _is_number(entry: Mapping[str, Any], name: str) -> bool:
    value = entry.get(name)
    return value is not None and math.isfinite(value)
