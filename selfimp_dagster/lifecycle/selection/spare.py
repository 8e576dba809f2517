"""Dropped rows that an update may still look at: the worse side of a comparison, the rest of a group."""

from collections.abc import Sequence

import polars as pl

from selfimp_dagster.lifecycle.selection.chain import (
    ALWAYS_ON,
    REWARD_FILTERS,
    SelectionContext,
    SelectionStep,
    corpus_rows,
    judge_rows,
)

SPARE = pl.Schema(
    {
        "sample_id": pl.String(),
        "task_id": pl.String(),
        "step": pl.String(),  # that dropped it
        "contrast": pl.Boolean(),  # whether it may be the worse side of a comparison
    }
)
"""Rows that were not selected and quote no evaluation item."""


def spare_rows(
    steps: Sequence[SelectionStep], context: SelectionContext, selection: pl.DataFrame
) -> pl.DataFrame:
    """The dropped rows that stay usable, in the schema SPARE, sorted by task and sample.

    `selection` is what the chain said. No row that decontamination drops is among them, whether the chain
    asked it of that row or an earlier step had dropped the row before. A row is a contrast where only its
    reward was against it (REWARD_FILTERS): the steps of ALWAYS_ON, asked of all such rows together, keep it.
    """
    always = {step.method.name: step for step in steps if step.method.name in ALWAYS_ON}
    last = selection.sort("position").unique("sample_id", keep="last")
    dropped = last.filter(~pl.col("kept")).select("sample_id", "step")
    rows = corpus_rows(context).join(dropped, on="sample_id", how="semi", maintain_order="left")
    clean = _kept_by(always["decontamination"], rows, context)
    worse = clean.join(
        dropped.filter(pl.col("step").is_in(REWARD_FILTERS)),
        on="sample_id",
        how="semi",
        maintain_order="left",
    )
    for name in ("exact_duplicates", "near_duplicates"):
        worse = _kept_by(always[name], worse, context)
    return (
        clean.select("sample_id", "task_id")
        .join(dropped, on="sample_id")
        .with_columns(contrast=pl.col("sample_id").is_in(worse["sample_id"].implode()))
        .sort("task_id", "sample_id")
    )


def _kept_by(step: SelectionStep, rows: pl.DataFrame, context: SelectionContext) -> pl.DataFrame:
    judged, _ = judge_rows(step, rows, context)
    return rows.join(judged.filter("kept"), on="sample_id", how="semi", maintain_order="left")
