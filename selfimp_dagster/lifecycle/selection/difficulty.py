"""Keep the tasks that the policy sometimes solves."""

from typing import Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.verifiers import PROPOSING


class DifficultyBandParameters(BaseModel):
    """Parameters of `difficulty_band`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(default=0.1, ge=0, le=1, description="The smallest pass rate that is kept.")
    high: float = Field(default=0.9, ge=0, le=1, description="The largest pass rate that is kept.")
    reward: str = Field(default="answer", description="The reward that says whether a sample passes.")
    minimum: float = Field(default=1.0, description="The smallest value that passes.")

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


@method(
    "selection",
    "difficulty_band",
    parameters=DifficultyBandParameters,
    section="3.2.2",
    paper="arXiv:2502.12272",
    needs=frozenset({"verifier"}),
)
def difficulty_band(
    rows: pl.DataFrame, context: SelectionContext, parameters: DifficultyBandParameters
) -> pl.DataFrame:
    """Keeps the samples of tasks whose pass rate p lies in [low, high].

    The score is p, over all samples of the task in the corpus that have the reward and were drawn
    without help, including those that earlier steps dropped. p(1-p) is the variance of a pass and what
    a task can still teach (Foster & Foerster, arXiv:2502.12272); at p = 0 and p = 1 it is nothing. Proposals,
    which do not pass or fail, stay.

    Raises:
        SelfimpError: no sample has that reward.
    """
    low, high = parameters.low, parameters.high
    rate = pl.col("rate")
    passes = (
        unaided(context.samples)
        .select("sample_id", "task_id")
        .join(context.reward(parameters.reward), on="sample_id")
        .drop_nulls("value")
        .group_by("task_id")
        .agg(
            (pl.col("value") >= parameters.minimum).sum().alias("passed"),
            pl.len().alias("samples"),
            (pl.col("value") >= parameters.minimum).mean().alias("rate"),
        )
    )
    proposing = context.tasks.filter(verifier=PROPOSING).select("task_id", proposes=True)
    return (
        rows.select("sample_id", "task_id")
        .join(proposing, on="task_id", how="left", maintain_order="left")
        .join(passes, on="task_id", how="left", maintain_order="left")
        .select(
            "sample_id",
            rate.alias("score"),
            (pl.col("proposes") | rate.is_between(low, high)).fill_null(False).alias("kept"),
            pl.when("proposes")
            .then(pl.lit("proposes a task"))
            .when(rate.is_null())
            .then(pl.lit(f"its task has no {parameters.reward} reward"))
            .when(rate < low)
            .then(pl.lit(f"pass rate is below {low}"))
            .when(rate > high)
            .then(pl.lit(f"pass rate is above {high}"))
            .otherwise(pl.lit(f"pass rate is between {low} and {high}"))
            .alias("reason"),
            pl.struct("passed", "samples").struct.json_encode().alias("evidence"),
        )
        .cast(JUDGEMENTS)
    )
