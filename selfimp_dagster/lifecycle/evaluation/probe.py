"""The gold probe: whether what gives scores still tells right answers from wrong ones."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from selfimp_dagster.records import derive_seed
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import Judgement, comparable_answer, verify

PROBED_ITEMS = 64
"""Items whose answers are shown to the verifier; the smallest ids, so the same ones in every round."""

_LAST_NUMBER = re.compile(r"\d+(?:\.\d+)?(?!.*\d)", re.DOTALL)


class Probe(NamedTuple):
    """How many answers of each kind the verifier was shown, and how many of them it accepted."""

    right: int
    right_accepted: int
    corrupted: int
    corrupted_accepted: int
    errors: int


def probe_verifier(tasks: Sequence[Task], judge: Callable[[Task, str], Judgement] = verify) -> Probe:
    """Shows the verifier each task's own answer and a corrupted one; it should accept the first alone.

    An answer is accepted if its score is 1. The same tasks give the same probe in any order. See
    `gold_answers` for the tasks that are left out.
    """
    shown = gold_answers(tasks, PROBED_ITEMS)
    right = [judge(gold.task, gold.right) for gold in shown]
    corrupted = [judge(gold.task, gold.corrupted) for gold in shown]
    return Probe(
        right=len(right),
        right_accepted=sum(judgement.value >= 1 for judgement in right),
        corrupted=len(corrupted),
        corrupted_accepted=sum(judgement.value >= 1 for judgement in corrupted),
        errors=sum(judgement.error for judgement in [*right, *corrupted]),
    )


class Gold(NamedTuple):
    """A task with its own answer, which is right, and one that is wrong and looks like it."""

    task: Task
    right: str
    corrupted: str


def gold_answers(tasks: Sequence[Task], at_most: int) -> list[Gold]:
    """Right and corrupted answers to the tasks with the smallest ids.

    Tasks without an answer, or for which no wrong answer can be told from the right one, are left out.
    """
    known = sorted(
        (task for task in tasks if task.answer and comparable_answer(task, task.answer) is not None),
        key=lambda task: task.task_id,
    )
    shown = ((task, task.answer, corrupted_answer(task, known)) for task in known[:at_most])
    return [Gold(task, right, wrong) for task, right, wrong in shown if right and wrong is not None]


def corrupted_answer(task: Task, others: Sequence[Task]) -> str | None:
    """A wrong answer to the task that looks like a right one, always the same; None if none is known.

    Either the answer of another task of the skill or the task's own, with its last number more than doubled
    (some scorers allow for rounding) or reversed where it has none; which of the two comes first is a
    matter of the task's id.
    """
    assert task.answer is not None
    candidates = [_exchanged(task, others), _altered(task)]
    if derive_seed("corrupted answer", task.task_id) % 2:
        candidates.reverse()
    return next((wrong for wrong in candidates if wrong is not None), None)


def _exchanged(task: Task, others: Sequence[Task]) -> str | None:
    """The answer of the next task of the skill that neither equals, holds nor is held by this one's."""
    mine = _compared(task, task.answer)
    after = [other for other in others if other.task_id > task.task_id]
    for other in [*after, *others]:
        theirs = _compared(task, other.answer)
        if other.skill == task.skill and mine and theirs and mine not in theirs and theirs not in mine:
            return other.answer
    return None


def _altered(task: Task) -> str | None:
    assert task.answer is not None
    number = _LAST_NUMBER.search(task.answer)
    if number:
        other = f"{2 * Decimal(number[0]) + 1:f}"
        wrong = task.answer[: number.start()] + other + task.answer[number.end() :]
    elif task.verifier == "math":  # x * y reversed is right
        return None
    else:
        wrong = task.answer[::-1]
    return wrong if _compared(task, wrong) not in (None, _compared(task, task.answer)) else None


def _compared(task: Task, answer: str | None) -> str | None:
    return comparable_answer(task, answer) if answer else None
