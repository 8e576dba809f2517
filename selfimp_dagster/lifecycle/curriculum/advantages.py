"""How much there is to learn from a skill: the mean absolute advantage of its samples."""

import math
from collections.abc import Mapping

import polars as pl

from selfimp_dagster.errors import SelfimpError

_EPSILON = 1e-6


def absolute_advantages(outcomes: pl.DataFrame) -> dict[str, list[float]]:
    """The absolute GRPO advantage of every sample (lessons.OUTCOMES), by skill, in the order of tasks and
    samples.

    An advantage is the distance from the task's mean value in standard deviations (Shao et al.,
    arXiv:2402.03300). The only sample of a task has none.

    Raises:
        SelfimpError: there are samples, and no task has two.
    """
    value, of_task = pl.col("value"), "task_id"
    groups = outcomes.filter(pl.len().over(of_task) > 1)
    if groups.is_empty() and not outcomes.is_empty():
        raise SelfimpError(
            "every task of the parent round has one sample, so none has an advantage over others",
            where="recipe.curriculum",
            fix="draw at least two: acquisition.samples_per_task",
        )
    distances = groups.select(
        "skill", ((value - value.mean().over(of_task)).abs() / (value.std().over(of_task) + _EPSILON))
    )
    return {
        str(skill): part["value"].to_list()
        for (skill,), part in distances.group_by("skill", maintain_order=True)
    }


def softmax(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """The probability of each, proportional to exp(score / temperature)."""
    highest = max(scores.values())
    weights = {name: math.exp((score - highest) / temperature) for name, score in scores.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
