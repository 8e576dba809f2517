"""What is right on the testbed, without the evaluator."""

from itertools import islice

import pytest

from selfimp_dagster.lab.truth import paraphrase, solve
from selfimp_dagster.tasks.strings import OPERATIONS, Operation, items


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_solver_gives_the_answers_of_the_tasks(operation: Operation) -> None:
    for prompt, answer, _ in islice(items(operation, range(1, 12), seed=3), 300):
        assert solve(prompt) == answer


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_paraphrase_is_another_prompt_with_the_same_answer(operation: Operation) -> None:
    drawn = list(islice(items(operation, range(4, 12), seed=3), 300))
    other = [paraphrase(prompt) for prompt, _, _ in drawn]
    assert [solve(prompt) for prompt in other] == [answer for _, answer, _ in drawn]
    assert sum(prompt == was for prompt, (was, _, _) in zip(other, drawn, strict=True)) < 6


@pytest.mark.parametrize("prompt", ["", ">", "+123", "x12", ">1a"])
def test_what_is_no_task_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="no task of strings"):
        solve(prompt)
