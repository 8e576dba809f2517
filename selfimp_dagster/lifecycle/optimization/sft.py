"""Supervised fine-tuning on selected samples (survey 4.2), through TRL's SFTTrainer."""

from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Update
from selfimp_dagster.progress import Bar
from selfimp_dagster.records import TRAINING, TRAINING_CURVE, frame
from selfimp_dagster.registry import method


class Sft(BaseModel):
    """Parameters of `sft`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_from: Literal["incumbent", "base"] = Field(
        default="incumbent",
        description="incumbent: this round's rows on the weights in force; base: the rows of all rounds "
        "of the line on the base model (accumulate, never replace).",
    )
    epochs: int = Field(default=2, ge=1, description="Passes over the rows.")
    learning_rate: float = Field(default=1e-5, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the learning rate falls after its warm-up."
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps that the rate rises over.")
    batch_size: int = Field(default=16, ge=1, description="Rows per update.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    lora_rank: int | None = Field(
        default=None, ge=1, description="Rank of LoRA adapters, merged when saved; none trains all weights."
    )


@method("optimization", "sft", parameters=Sft, section="4.2", paper="arXiv:2203.02155")
def sft(context: OptimizationContext, parameters: Sft) -> Update:
    """Cross-entropy on the selected responses, prompts masked; all weights or LoRA.

    Weights and optimizer are float32; matrix products run in bfloat16 where the processor has it.
    Saved as float32 safetensors with the tokenizer.

    Raises:
        SelfimpError: the loss stopped being finite.
    """
    rows = context.rows
    if parameters.start_from == "base":
        rows = pl.concat([context.earlier, rows]).unique("sample_id", maintain_order=True)
    start = context.base if parameters.start_from == "base" else context.incumbent
    curve, tokens = _train(rows, start, context, parameters)
    return Update(
        training=frame(
            (
                {"sample_id": id_, "update": "sft", "weight": 1.0, "origin_round": origin}
                for id_, origin in rows.select("sample_id", "round").iter_rows()
            ),
            TRAINING,
        ),
        curve=curve,
        facts={"method": "sft", "trained_from": parameters.start_from, "steps": curve.height},
        tokens=tokens,
    )


def _train(
    rows: pl.DataFrame, start: Path, context: OptimizationContext, parameters: Sft
) -> tuple[pl.DataFrame, int]:
    import torch
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from selfimp_dagster.models.loading import load_model, load_tokenizer, pick_dtype

    disable_progress_bars()  # progress goes where the caller wants it
    tokenizer = load_tokenizer(start)
    model = load_model(start, dtype="float32", device="auto")
    dataset = Dataset.from_list(
        [
            {"prompt": messages, "completion": [{"role": "assistant", "content": response}]}
            for messages, response in rows.select("messages", "response").iter_rows()
        ]
    )
    steps = -(-len(dataset) // parameters.batch_size) * parameters.epochs
    arguments = SFTConfig(
        output_dir=str(context.output.with_name(".trainer")),
        num_train_epochs=parameters.epochs,
        per_device_train_batch_size=parameters.batch_size,
        learning_rate=parameters.learning_rate,
        lr_scheduler_type=parameters.schedule,
        warmup_steps=round(parameters.warmup * steps),
        weight_decay=parameters.weight_decay,
        bf16=pick_dtype("auto", str(model.device)) == torch.bfloat16,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=context.seed % 2**32,
        data_seed=context.seed % 2**32,
        use_cpu=not torch.cuda.is_available(),
    )
    adapter = (
        LoraConfig(
            r=parameters.lora_rank,
            lora_alpha=2 * parameters.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        if parameters.lora_rank
        else None
    )

    class Watch(TrainerCallback):
        def __init__(self, bar: Bar) -> None:
            self._bar = bar

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self._bar.advance(1)

    with context.progress.stage("training", total=steps, unit="steps") as bar:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[Watch(bar)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    curve = _curve(trainer.state.log_history)
    if not curve["loss"].is_finite().all():
        raise SelfimpError(
            "the training loss is not finite",
            where="checkpoint: optimization",
            fix="lower learning_rate, or raise warmup, then materialize checkpoint again",
        )
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if adapter is not None:
        trained = trained.merge_and_unload()
    trained.save_pretrained(context.output)
    tokenizer.save_pretrained(context.output)
    return curve, int(trainer.state.num_input_tokens_seen)


def _curve(history: list[dict[str, Any]]) -> pl.DataFrame:
    return frame(
        (
            {
                "step": entry["step"],
                "epoch": entry["epoch"],
                "loss": entry["loss"],
                "learning_rate": entry["learning_rate"],
                "grad_norm": entry.get("grad_norm"),
            }
            for entry in history
            if "loss" in entry
        ),
        TRAINING_CURVE,
    )
