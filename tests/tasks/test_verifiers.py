"""Judging responses: what is read from them, what counts as right, and that nothing escapes."""

import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.tasks.suites import ReasoningGymSource, Task, stream_tasks
from selfimp_dagster.tasks.verifiers import comparable_answer, extract_answer, verify


def file_task(answer: str | None, verifier: str = "math") -> Task:
    return Task("id", "skill", "file:x.jsonl", 1.0, "prompt", answer, verifier, None, "file")


def family_task(family: str, **item: Any) -> Task:
    source = ReasoningGymSource(family=family)
    if item:
        return Task.from_family(source, "skill", {"question": "q", "metadata": {}, **item})
    return next(iter(stream_tasks(source, "skill", 3, Path())))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("-4", "-4"),
        ("so it is -4.", "-4"),
        ("x=\u22124", "-4"),
        ("(-4)", "-4"),
        ("-$4", "-4"),
        ("= 7.", "7"),
        ("1,234", "1234"),
        ("$1,234.50 in all", "1234.50"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("1.5e-3", "1.5e-3"),
        ("10-3", "3"),
        ("(2)-3", "3"),
        ("10 - 3 = 7", "7"),
        ("first 5, then 6", "6"),
        ("**12**", "12"),
        ("\\boxed{12}", "12"),
        ("12km on route A7", "12"),
        ("答案是7。", "7"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_is_the_answer_where_a_number_is_expected(response: str, answer: str | None) -> None:
    assert extract_answer(response, expected_numeric=True) == answer


def test_the_last_line_is_the_answer_where_text_is_expected() -> None:
    assert extract_answer("Let me think.\n\n Friday \n", expected_numeric=False) == "Friday"
    assert extract_answer(" 1 2\n3 4 ", expected_numeric=False, several_lines=True) == "1 2\n3 4"
    assert extract_answer(" \n", expected_numeric=False) is None


@given(st.text())
def test_reading_an_answer_never_fails(response: str) -> None:
    comparable_answer(file_task("7"), response)
    comparable_answer(file_task("Friday"), response)


@given(st.integers())
def test_every_integer_is_read_back(number: int) -> None:
    assert comparable_answer(file_task("7"), f"the answer is {number:,}.") == str(number)


@pytest.mark.parametrize(
    ("one", "other"),
    [("007", "7"), ("1,234", "= 1234."), ("3.0", "3"), ("-0", "0"), ("+5", "5"), ("0.50", ".5")],
)
def test_equal_numbers_vote_for_the_same(one: str, other: str) -> None:
    task = file_task("1")
    assert comparable_answer(task, one) == comparable_answer(task, other)


def test_long_numbers_are_not_rounded_into_each_other() -> None:
    task = file_task("1")
    assert comparable_answer(task, "1" * 40) != comparable_answer(task, "1" * 39 + "2")


def test_equal_texts_vote_for_the_same() -> None:
    task = file_task("Friday", "exact")
    votes = {
        comparable_answer(task, text) for text in ("friday", "**Friday**.", "Hm.\nThe answer is Friday.")
    }
    assert votes == {"friday"}
    assert comparable_answer(task, "  ") is None


@pytest.mark.parametrize(
    "family", ["chain_sum", "gcd", "products", "base_conversion", "arc_1d", "countdown", "dice"]
)
def test_the_expected_answer_of_a_stored_task_is_right(family: str) -> None:
    for task in islice(stream_tasks(ReasoningGymSource(family=family), "skill", 1, Path()), 3):
        assert task.answer is not None
        judgement = verify(task, task.answer)
        assert (judgement.value, judgement.error) == (1.0, False)


@pytest.mark.parametrize(
    ("response", "value"),
    [("7", 1), ("3 + 4 = 7.", 1), ("7.0", 1), ("007", 1), ("17", 0), ("77", 0), ("7 or 8", 0), ("seven", 0)],
)
def test_numeric_tasks_are_right_or_wrong_without_partial_credit(response: str, value: int) -> None:
    for family in ("chain_sum", "gcd"):  # a scorer of its own, and the inherited one
        assert verify(family_task(family, answer="7"), response).value == value


@pytest.mark.parametrize(("response", "value"), [("up", 1), ("Answer: up.", 1), ("up or down", 0)])
def test_containing_the_answer_is_not_part_of_it(response: str, value: int) -> None:
    assert verify(family_task("string_manipulation", answer="up"), response).value == value


def test_graded_families_keep_their_grades_but_not_the_credit_for_form() -> None:
    assert verify(family_task("polynomial_equations", answer="-3.0, 2.0"), "2.0").value == 0.5
    assert verify(family_task("sentence_reordering", answer="so it is"), "it is so").value == 0
    assert verify(family_task("cryptarithm"), "nothing").value == 0


def test_a_task_without_an_answer_is_judged_by_its_scorer() -> None:
    task = family_task("graph_color")
    assert task.answer is None
    assert verify(task, "[]").value == 0


@pytest.mark.parametrize("verifier", ["math", "exact", "contains", "reasoning_gym"])
def test_an_empty_response_is_wrong(verifier: str) -> None:
    judgement = verify(file_task("7", verifier), " \n")
    assert (judgement.value, judgement.evidence, judgement.error) == (0.0, "empty response", False)


@pytest.mark.parametrize(
    ("expected", "response", "value"),
    [
        ("72", "48/2 = 24, and 48 + 24 = 72.", 1),
        ("1,234", "It costs $1234", 1),
        ("\\frac{1}{2}", "\\boxed{0.5}", 1),
        ("1/2", "0.5", 1),
        ("x + 1", "1 + x", 1),
        ("x + 1", "x + 2", 0),
        ("72", "71", 0),
        ("72", "no idea", 0),
    ],
)
def test_math_answers_are_compared_as_mathematics(expected: str, response: str, value: int) -> None:
    judgement = verify(file_task(expected), response)
    assert (judgement.value, judgement.error) == (value, False)


@pytest.mark.parametrize(
    ("expected", "response", "value"),
    [("Paris", "paris.", 1), ("Paris", "Paris or Rome", 0), ("3", "It is 3.0", 1), ("3", "none", 0)],
)
def test_exact_answers_are_compared_as_normalised_text_or_number(
    expected: str, response: str, value: int
) -> None:
    assert verify(file_task(expected, "exact"), response).value == value


def test_judging_works_in_threads() -> None:
    values: list[float] = []
    threads = [
        threading.Thread(target=lambda: values.append(verify(file_task("72"), "it is 72").value))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [1.0] * 4


@pytest.mark.parametrize(("verifier", "hanging"), [("math", "$9^{9^{9}}$"), ("countdown", "9**9**9**9")])
def test_a_verifier_that_hangs_is_ended_and_the_next_one_works(verifier: str, hanging: str) -> None:
    task = file_task("7") if verifier == "math" else family_task(verifier)
    assert task.answer is not None
    verify(task, task.answer)  # the worker's start is not part of the limit
    started = time.monotonic()
    judgement = verify(task, hanging, time_limit=0.5)
    assert time.monotonic() - started < 5
    assert (judgement.value, judgement.error) == (0.0, True)
    assert "took longer than 0.5 s" in judgement.evidence
    assert verify(task, task.answer).value == 1.0


@pytest.mark.parametrize(
    ("task", "evidence"),
    [
        (file_task("$"), "cannot read the expected answer"),
        (file_task(None, "exact"), "no answer to compare with"),
        (file_task("7", "oracle"), "there is no verifier 'oracle'"),
        (file_task("7", "reasoning_gym"), "no entry"),
    ],
)
def test_a_verifier_that_raises_is_a_wrong_answer_with_the_reason(task: Task, evidence: str) -> None:
    judgement = verify(task, "banana")
    assert (judgement.value, judgement.error) == (0.0, True)
    assert evidence in judgement.evidence


def test_a_family_scorer_that_raises_is_a_wrong_answer_with_the_reason() -> None:
    judgement = verify(family_task("prime_factorization"), "banana")
    assert (judgement.value, judgement.extracted, judgement.error) == (0.0, "banana", True)
    assert "ValueError: invalid literal" in judgement.evidence


def test_importing_costs_neither_library() -> None:
    heavy = "{'torch', 'dagster', 'reasoning_gym', 'math_verify', 'sympy'}"
    modules = "selfimp_dagster.tasks.pools, selfimp_dagster.tasks.verifiers"
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("Addis Ababa", 1.0),
        ("The capital of Ethiopia is **addis  ababa**.", 1.0),
        ("Addis Ababas", 0.0),
        ("Addis", 0.0),
        ("", 0.0),
    ],
)
def test_contains_looks_for_whole_words(response: str, value: float) -> None:
    assert verify(file_task("Addis Ababa", "contains"), response).value == value
