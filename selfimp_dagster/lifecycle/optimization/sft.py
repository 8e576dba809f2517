"""Supervised fine-tuning on selected samples (survey 4.2), through TRL's SFTTrainer."""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Update
from selfimp_dagster.records import TRAINING, frame
from selfimp_dagster.registry import method


class Sft(BaseModel):
    """Parameters of `sft`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_from: Literal["incumbent", "base"] = Field(
        default="incumbent",
        description="incumbent: this round's rows on the weights in force; base: the rows of all rounds "
        "of the line on the base model (accumulate, never replace).",
    )
    replay: float = Field(
        default=0.0,
        ge=0,
        description="Rows of earlier rounds mixed in, as a multiple of this round's rows.",
    )
    epochs: float = Field(default=2, gt=0, description="Passes over the rows.")
    most_steps: int | None = Field(
        default=None, ge=1, description="Updates at which training ends early. None: after all its epochs."
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="How the learning rate falls after its warm-up."
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps that the rate rises over."
    )
    batch_size: int = Field(default=16, ge=1, description="Rows per update.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    upper_layers: int | None = Field(
        default=None,
        ge=1,
        description="Train that many of the uppermost layers; embeddings and the layers below stay as they "
        "are, and the backward pass ends there. None trains all weights.",
    )
    lora_rank: int | None = Field(
        default=None, ge=1, description="Rank of LoRA adapters, merged when saved. None trains the weights."
    )


@method("optimization", "sft", parameters=Sft, section="4.2", paper="arXiv:2203.02155")
def sft(context: OptimizationContext, parameters: Sft) -> Update:
    """Cross-entropy on the selected responses, prompts masked: all weights, the upper layers, or LoRA.

    Weights and optimizer are float32; matrix products run in bfloat16 where that is faster. The
    candidate is saved as float32 safetensors with its tokenizer.

    Raises:
        SelfimpError: the loss stopped being finite, or the model has fewer layers than are to be trained.
    """
    from selfimp_dagster.lifecycle.optimization.sft_trainer import train

    rows = _rows(context, parameters)
    start = context.base if parameters.start_from == "base" else context.incumbent
    curve, tokens = train(rows, start, context, parameters)
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


def _rows(context: OptimizationContext, parameters: Sft) -> pl.DataFrame:
    """This round's rows with all earlier ones (from the base model) or a draw of them (replay)."""
    rows, earlier = context.rows, context.earlier
    if parameters.start_from == "incumbent":
        drawn = min(round(parameters.replay * rows.height), earlier.height)
        earlier = earlier.sample(drawn, seed=context.seed % 2**32)
    return pl.concat([earlier, rows]).unique("sample_id", keep="first", maintain_order=True)
