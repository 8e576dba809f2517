"""Supervised fine-tuning on selected samples (survey 4.2), through TRL's SFTTrainer."""

from typing import Literal, Self

import polars as pl
from pydantic import Field, model_validator

from selfimp_dagster.lifecycle.optimization.update import (
    OptimizationContext,
    Schedule,
    Update,
    no_rows,
    training_rows,
)
from selfimp_dagster.registry import Signal, method

_ANY: frozenset[Signal] = frozenset({"verdict", "score", "ordering", "votes", "answers"})


class Sft(Schedule):
    """Parameters of `sft`."""

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
    weight: Literal["equal", "confidence", "value"] = Field(
        default="equal",
        description="How much a row of this round counts: all the same, or by the confidence or the value of "
        "a reward, over its mean.",
    )
    reward: str | None = Field(
        default=None, description="The reward that weighs the rows. None: the first of the recipe."
    )

    @model_validator(mode="after")
    def _reward_weighs(self) -> Self:
        if self.reward is not None and self.weight == "equal":
            raise ValueError("a reward is named and rows have equal weights: set weight, or leave reward out")
        return self


@method("optimization", "sft", parameters=Sft, section="4.2", paper="arXiv:2203.02155")
def sft(context: OptimizationContext, parameters: Sft) -> Update:
    """Cross-entropy on the selected responses, prompts masked: all weights, the upper layers, or LoRA.

    In: the selected rows; signal: that they were selected, and with `weight` the confidence or the value of a
    reward, which multiplies the loss of a row's tokens. Weights are divided by their mean, so that the
    learning rate means what it means without them; rows of earlier rounds have weight 1. Weights and
    optimizer are float32; matrix products run in bfloat16 where that is faster. Out: the candidate as float32
    safetensors with its tokenizer.

    Raises:
        SelfimpError: the loss stopped being finite, the model has fewer layers than are to be trained, or no
            selected row has a weight.
    """
    from selfimp_dagster.lifecycle.optimization.sft_trainer import train

    rows = _rows(context, parameters)
    weights = _weights(rows, context, parameters)
    start = context.base if parameters.start_from == "base" else context.start
    curve = train(rows, weights, start, context, parameters)
    return Update(
        training=training_rows(rows, "sft", "imitated", weights),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={"method": "sft", "trained_from": parameters.start_from, "steps": curve.steps.height},
        tokens=curve.tokens,
    )


def _rows(context: OptimizationContext, parameters: Sft) -> pl.DataFrame:
    """This round's rows with all earlier ones (from the base model) or a draw of them (replay)."""
    rows, earlier = context.rows, context.earlier
    if parameters.start_from == "incumbent":
        drawn = min(round(parameters.replay * rows.height), earlier.height)
        earlier = earlier.sample(drawn, seed=context.seed % 2**32)
    return pl.concat([earlier, rows]).unique("sample_id", keep="first", maintain_order=True)


def _weights(rows: pl.DataFrame, context: OptimizationContext, parameters: Sft) -> list[float]:
    if parameters.weight == "equal":
        return [1.0] * rows.height
    judged = context.judged(parameters.reward, _ANY).join(context.rows, on="sample_id", how="semi")
    given = pl.col(parameters.weight).fill_null(0.0).clip(lower_bound=0.0)
    told = judged.select("sample_id", given.alias("weight"))
    mean = told["weight"].mean()
    if not mean:
        raise no_rows(
            "sft", f"selected row with a {parameters.weight} above 0", "leave weight out, or choose a reward"
        )
    by_id = {id_: weight / mean for id_, weight in told.iter_rows()}
    own = set(context.rows["sample_id"])
    return [by_id.get(id_, 0.0) if id_ in own else 1.0 for id_ in rows["sample_id"]]
