"""A selection is a chain of named steps: each judges the rows that the steps before it kept.

A step is a registered function `(rows, context, parameters) -> frame`. `rows` has one row per
sample that is still alive: the columns of SAMPLES plus `skill`, `difficulty`, `prompt` and
`answer` of its task. The frame that it returns has the columns of JUDGEMENTS, one row per sample
of `rows`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import REWARDS, SAMPLES, SELECTION, TASKS, check_schema
from selfimp_dagster.registry import Method, find_method

ALWAYS_ON = ("exact_duplicates", "near_duplicates", "decontamination")
"""The steps that every chain has exactly once."""

EARLIER = pl.Schema(
    {
        "sample_id": pl.String,
        "task_id": pl.String,
        "round": pl.String,
        "prompt": pl.String,
        "response": pl.String,
    }
)
"""Rows that the ancestor rounds kept; further columns are ignored."""

JUDGEMENTS = pl.Schema(
    {
        "sample_id": pl.String,
        "score": pl.Float64,
        "kept": pl.Boolean,
        "reason": pl.String,
        "evidence": pl.String,
    }
)
"""What a step says of each row. `score` is null where there was nothing to score."""


@dataclass(frozen=True)
class SelectionContext:
    """What the steps of one round may look at.

    `earlier` are the rows kept in the ancestor rounds (EARLIER); `evaluation_items` are the anchor,
    fresh and guard items of this and all earlier rounds (TASKS).
    """

    tasks: pl.DataFrame
    samples: pl.DataFrame
    rewards: pl.DataFrame
    earlier: pl.DataFrame
    evaluation_items: pl.DataFrame
    seed: int

    def reward(self, name: str) -> pl.DataFrame:
        """The named reward: sample_id, kind, value (null where it is not a number), confidence, evidence.

        Raises:
            SelfimpError: there are samples and none of them has that reward.
        """
        named = self.rewards.filter(pl.col("reward") == name)
        if named.is_empty() and not self.samples.is_empty():
            known = ", ".join(sorted(self.rewards["reward"].drop_nulls().unique())) or "none"
            raise SelfimpError(
                f"no sample has the reward {name!r}",
                where="recipe.selection",
                fix=f"name a reward of this corpus ({known}), or add {name!r} to the recipe's rewards",
            )
        # NaN compares greater than every number, so it would pass any minimum.
        return named.select("sample_id", "kind", pl.col("value").fill_nan(None), "confidence", "evidence")


@dataclass(frozen=True)
class SelectionStep:
    """One step of a chain: a registered method and its parameters."""

    method: Method
    parameters: BaseModel

    @classmethod
    def of(cls, name: str, **parameters: Any) -> Self:
        """The step of that name; parameters that are not given have their defaults.

        Raises:
            SelfimpError: there is no such selection method.
            pydantic.ValidationError: the parameters do not fit.
        """
        method = find_method("selection", name)
        return cls(method, method.parameters.model_validate(parameters))


def check_chain(steps: Sequence[SelectionStep]) -> None:
    """Refuses a chain that could train on duplicates or on evaluation items.

    Raises:
        SelfimpError: a step of ALWAYS_ON is missing or there twice.
    """
    times = Counter(step.method.name for step in steps)
    wrong = [f"{name} is there {times[name]} times" for name in ALWAYS_ON if times[name] != 1]
    if wrong:
        raise SelfimpError(
            f"every selection removes duplicates and evaluation items exactly once: {', '.join(wrong)}",
            where="recipe.selection",
            fix=f"have each of {', '.join(ALWAYS_ON)} once",
        )


def run_chain(steps: Sequence[SelectionStep], context: SelectionContext) -> pl.DataFrame:
    """Every sample's score and fate at every step that it reached, in the schema of SELECTION.

    Sorted by task, sample and position; positions count from 0. A sample is kept when all of its
    rows are, and otherwise its last row says why it was dropped. The result does not depend on the
    order of the rows in the context.

    Raises:
        SelfimpError: the chain lacks a step of ALWAYS_ON, or the frames of the context do not fit
            their schemas or each other.
        ValueError: a step did not judge every row exactly once.
    """
    check_chain(steps)
    alive = _rows(context)
    tasks = alive.select("sample_id", "task_id")
    judged = [SELECTION.to_frame()]
    for position, step in enumerate(steps):
        judgements = _judge(step, alive, context)
        judged.append(
            judgements.join(tasks, on="sample_id").select(
                "sample_id",
                "task_id",
                pl.lit(position, pl.Int64).alias("position"),
                pl.lit(step.method.name).alias("step"),
                "score",
                "kept",
                "reason",
                "evidence",
            )
        )
        alive = alive.join(judgements.filter("kept"), on="sample_id", how="semi", maintain_order="left")
    return pl.concat(judged).sort("task_id", "sample_id", "position")


def kept_sample_ids(selection: pl.DataFrame) -> list[str]:
    """The samples that every step kept, sorted by task and sample."""
    kept = selection.group_by("task_id", "sample_id").agg(pl.col("kept").all())
    return kept.filter("kept").sort("task_id", "sample_id")["sample_id"].to_list()


def funnel(selection: pl.DataFrame) -> pl.DataFrame:
    """How many samples reached each step and left it: position, step, reached, kept, dropped.

    A step that no sample reached has no row.
    """
    return (
        selection.group_by("position", "step")
        .agg(
            pl.len().cast(pl.Int64).alias("reached"),
            pl.col("kept").sum().cast(pl.Int64),
            (~pl.col("kept")).sum().cast(pl.Int64).alias("dropped"),
        )
        .sort("position")
    )


def _rows(context: SelectionContext) -> pl.DataFrame:
    """The corpus in its canonical order, each sample with its task."""
    earlier = context.earlier.select(name for name in EARLIER if name in context.earlier.columns)
    for table, schema, name in (
        (context.tasks, TASKS, "tasks"),
        (context.samples, SAMPLES, "samples"),
        (context.rewards, REWARDS, "rewards"),
        (earlier, EARLIER, "rows of earlier rounds"),
        (context.evaluation_items, TASKS, "evaluation items"),
    ):
        check_schema(table, schema, f"selected_subset, {name}")
    for table, key, name in (
        (context.tasks, ["task_id"], "tasks"),
        (context.samples, ["sample_id"], "samples"),
        (context.rewards, ["sample_id", "reward"], "rewards"),
    ):
        repeated = table.filter(table.select(key).is_duplicated())
        if not repeated.is_empty():
            raise _corpus_error(f"{name} has {repeated.height} rows that share their {' and '.join(key)}")
    orphans = context.samples.join(context.tasks, on="task_id", how="anti")
    if not orphans.is_empty():
        raise _corpus_error(f"{orphans.height} samples answer tasks that the corpus does not have")
    task = context.tasks.select("task_id", "skill", "difficulty", "prompt", "answer")
    return (
        context.samples.join(task, on="task_id")
        .with_columns(pl.col("prompt", "response").fill_null(""))
        .sort("task_id", "sample_id")
    )


def _corpus_error(what: str) -> SelfimpError:
    return SelfimpError(what, where="generated_corpus", fix="materialize generated_corpus again")


def _judge(step: SelectionStep, rows: pl.DataFrame, context: SelectionContext) -> pl.DataFrame:
    name = step.method.name
    judgements = check_schema(
        step.method.function(rows, context, step.parameters), JUDGEMENTS, f"selection step {name}"
    )
    same = judgements["sample_id"].sort().equals(rows["sample_id"].sort())
    if not same or judgements["kept"].has_nulls():
        raise ValueError(f"selection step {name} must judge each of its {rows.height} rows exactly once")
    return judgements
