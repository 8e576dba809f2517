"""Transformations: a known task asked otherwise, with an answer that is known to be right.

Each takes a task and a seed and gives another task, its twin, or None where it does not apply or where its
check does not pass: rather no twin than one with a wrong answer. The same task and seed give the same twin.
docs/transformations.md says what each one checks, how often it applies, and how often it was found wrong.
"""

from collections.abc import Callable, Mapping

from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations.numbers import numbers
from selfimp_dagster.tasks.transformations.renamed import renamed
from selfimp_dagster.tasks.transformations.reordered import reordered
from selfimp_dagster.tasks.transformations.reseeded import reseeded
from selfimp_dagster.tasks.transformations.reworded import reworded

Transformation = Callable[[Task, int], Task | None]

TRANSFORMATIONS: Mapping[str, Transformation] = {
    "numbers": numbers,
    "reseeded": reseeded,
    "renamed": renamed,
    "reordered": reordered,
    "reworded": reworded,
}
"""Every transformation by name; the less of an item can be recognised in its twin, the earlier."""
