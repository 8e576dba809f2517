"""Grades that a judge gives: their mean under the probabilities that it gives them."""

from collections.abc import Sequence

from selfimp_dagster.engines.chat import Choice
from selfimp_dagster.lifecycle.rewards.context import Judge, Question
from selfimp_dagster.lifecycle.rewards.verdicts import LEAST_MASS


def expected_grades(
    judge: Judge, questions: Sequence[Question], grades: Sequence[int], label: str
) -> list[tuple[float | None, str]]:
    """The mean of the grades that a judge would answer each question with; or none, and why.

    It is asked for nothing but how probable each grade is as the answer: there is no text to be misread.
    """
    choices = judge.choose(questions, [str(grade) for grade in grades], label=label) if questions else []
    return [_mean(choice, grades) for choice in choices]


def _mean(choice: Choice, grades: Sequence[int]) -> tuple[float | None, str]:
    if choice.failure:
        return None, f"no grade: {choice.failure}"
    mass = sum(choice.probabilities)
    if not mass >= LEAST_MASS:
        return None, f"the grades have a probability of {mass:.2g} together"
    return sum(p * grade for p, grade in zip(choice.probabilities, grades, strict=True)) / mass, ""
