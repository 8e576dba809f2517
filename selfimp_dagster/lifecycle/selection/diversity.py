"""Keep easy tasks from filling the corpus."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.lifecycle.selection.text import normalised
from selfimp_dagster.registry import method


class CapPerTaskParameters(BaseModel):
    """Parameters of `cap_per_task`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: int = Field(default=4, ge=1, description="Rows that one task may keep.")


@method(
    "selection", "cap_per_task", parameters=CapPerTaskParameters, section="3.2.1", paper="arXiv:2312.06585"
)
def cap_per_task(
    rows: pl.DataFrame, context: SelectionContext, parameters: CapPerTaskParameters
) -> pl.DataFrame:
    """Keeps at most so many rows per task: responses that differ first, the shortest of them first.

    The score is the row's rank within its task, from 1; equal lengths (in characters) go by sample
    id. Without a cap easy tasks fill the corpus (ReST-EM, Singh et al., arXiv:2312.06585).
    """
    response = normalised(pl.col("response"))
    repeat = pl.col("sample_id").rank("ordinal").over("task_id", "response")
    ranked = (
        rows.select("sample_id", "task_id", response.alias("response"))
        .with_columns(repeat.alias("repeat"), pl.col("response").str.len_chars().alias("characters"))
        .with_columns(
            pl.struct("repeat", "characters", "sample_id").rank("ordinal").over("task_id").alias("rank"),
            pl.len().over("task_id").alias("rows_of_task"),
        )
    )
    kept = pl.col("rank") <= parameters.at_most
    return ranked.select(
        "sample_id",
        pl.col("rank").alias("score"),
        kept.alias("kept"),
        pl.when(kept)
        .then(pl.lit(f"one of the first {parameters.at_most} rows of its task"))
        .otherwise(pl.lit(f"its task already has {parameters.at_most} rows"))
        .alias("reason"),
        pl.struct("rows_of_task", "characters").struct.json_encode().alias("evidence"),
    ).cast(JUDGEMENTS)
