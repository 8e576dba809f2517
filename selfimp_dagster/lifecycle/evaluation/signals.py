"""The signals of a round, read off the tables and facts of its artifacts."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimp_dagster.lifecycle.evaluation.summary import Change, Counted, Flips, PassRates


def level_scores(evaluations: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Sum of scores and number of answers by skill, level and arm, over anchor and fresh items.

    Args:
        evaluations: records.EVALUATIONS.
        items: what was asked, records.TASKS.

    Returns:
        skill, level, arm, right, n; sorted.
    """
    levels = items.select("difficulty", item_id="task_id", suite="pool")
    return (
        evaluations.filter(pl.col("suite").is_in(["anchor", "fresh"]))
        .join(levels, on=["item_id", "suite"])
        .unique(["item_id", "arm"])
        .group_by("skill", pl.col("difficulty").alias("level"), "arm")
        .agg(pl.col("score").sort().sum().alias("right"), pl.len().cast(pl.Int64).alias("n"))
        .sort("skill", "level", "arm")
    )


def hardest_drawn(tasks: pl.DataFrame, samples: pl.DataFrame) -> dict[str, float]:
    """The hardest level by skill among the tasks (records.TASKS) that have one of the samples."""
    drawn = tasks.join(samples, on="task_id", how="semi").group_by("skill").agg(pl.col("difficulty").max())
    return dict(drawn.sort("skill").iter_rows())


def pass_rates(draws: pl.DataFrame) -> PassRates | None:
    """Of the tasks with several draws (dimensions.DRAWS), how many were never and always solved."""
    rates = (
        draws.group_by("task_id")
        .agg(pl.col("right").mean().alias("rate"), pl.len().alias("samples"))
        .filter(pl.col("samples") >= 2)["rate"]
    )
    if rates.is_empty():
        return None
    return PassRates(never=int((rates == 0).sum()), always=int((rates == 1).sum()), n=rates.len())


def selected_right(kept: list[str], samples: pl.DataFrame, answers: pl.DataFrame) -> Counted | None:
    """How many of the kept samples the tasks' verifiers accept.

    Demonstrations, which nobody drew, and samples of tasks without a known answer are left out.

    Args:
        kept: ids of the selected samples.
        samples: records.SAMPLES.
        answers: the rewards `answer` of the samples (records.REWARDS).
    """
    own = samples.filter(pl.col("sample_id").is_in(kept), pl.col("generation") != "D")
    verdicts = answers.join(own, on="sample_id", how="semi")["value"].drop_nulls() >= 1
    return Counted(right=int(verdicts.sum()), n=verdicts.len()) if verdicts.len() else None


def worst_change(dimensions: pl.DataFrame, measure: str) -> Change | None:
    """A change of the dimensions (records.DIMENSIONS), if it was measured."""
    found = dimensions.filter(pl.col("measure") == measure).to_dicts()
    return Change(**{name: found[0][name] for name in Change.model_fields}) if found else None


def is_sharpening(dimensions: pl.DataFrame) -> bool:
    """Whether single draws improved while the reach of several shrank (records.DIMENSIONS)."""
    return not dimensions.filter(pl.col("measure") == "sharpening_only", pl.col("value") > 0).is_empty()


def refinement_flips(facts: Mapping[str, Any]) -> Flips | None:
    """What refinement did, from the facts of refined_outputs; nothing where it was not used."""
    if not facts["tasks"] or not facts.get("enabled", True):  # artifacts of earlier versions do not say
        return None
    return Flips(to_right=facts["wrong_to_right"], to_wrong=facts["right_to_wrong"], n=facts["tasks"])
