"""Grades that a model gives: the mean of the grades under the probabilities that it gives them."""

from collections.abc import Sequence

import numpy as np

from selfimp_dagster.lifecycle.selection.models import Models, Role


def expected_grades(
    models: Models, role: Role, questions: Sequence[str], grades: Sequence[int], label: str
) -> list[float]:
    """The mean grade that the role's model answers each question with, if it answers with a grade at all.

    The model is asked for nothing but the probability of each grade as the whole answer, normalised over
    the grades: there is no text that could be of another form.
    """
    pairs = [(({"role": "user", "content": text},), str(grade)) for text in questions for grade in grades]
    logprobs = [sum(tokens) for tokens in models.logprobs(role, pairs, label)]
    table = np.array(logprobs, dtype=float).reshape(len(questions), len(grades))
    weights = np.exp(table - table.max(axis=1, keepdims=True))
    means: list[float] = (weights @ np.array(grades, dtype=float) / weights.sum(axis=1)).tolist()
    return means


def forges(text: str, marks: Sequence[str]) -> bool:
    """Whether a text writes one of the marks that tell a grader its parts, as if it could grade
    itself."""
    flat = text.casefold()
    return any(mark.casefold() in flat for mark in marks)
