"""Tools that the policy writes: proven on practice before they are called, retired when they fail."""

import re
from typing import Any

import pytest
from scripted import Policy, refine

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.refinement.tool_making import usable, verified
from selfimp_dagster.sandbox.machine import machine_sandbox

ADDS = "```python\ndef solve(question):\n    a, b = question.split('+')\n    return str(int(a) + int(b))\n```"
PRACTICE = [f"{n}+1" for n in range(1, 25)]
VALUES = {str(n + 1): 1.0 for n in range(1, 100)}


@pytest.fixture(scope="module", autouse=True)
def _needs_a_sandbox() -> None:
    try:
        machine_sandbox()
    except SelfimpError as error:
        pytest.skip(error.what)


def policy(*tools: str) -> Policy:
    """Writes one tool after the other, says what a tool's result says, and wrong things without one."""
    waiting = iter(tools)

    def say(asked: str) -> str:
        if "Write" in asked:
            return next(waiting)
        found = re.search(r"returns: (.*)", asked)
        return found[1] if found else "wrong"

    return Policy(say)


def made(*tools: str, tasks: tuple[str, ...] = ("40+2",), **given: Any) -> tuple[Any, Any, dict[str, Any]]:
    notes: dict[str, Any] = {}
    answers, told = refine(
        "tool_making",
        policy(*tools),
        dict.fromkeys(tasks, "greedy"),
        VALUES,
        practice=PRACTICE,
        solved={"1+1": "2", "2+1": "3"},
        notes=notes,
        **given,
    )
    return answers, told, notes["tool of sums"]


def test_a_proven_tool_is_called() -> None:
    answers, told, note = made(ADDS)
    assert answers == {"40+2": "42"}
    assert told["40+2"].agreement == 1
    assert note["verified"]
    assert (note["called"], note["failed"], note["retired"]) == (1, 0, False)
    assert note["why"] == "1.00 of the practice with it, 0.00 without"
    # The practice without and with the tool, the writing of it, and the answer: 11 tokens each.
    assert told["40+2"].tokens == 11 * (22 + 1 + 22 + 1)


def test_a_tool_that_is_not_right_is_not_called_but_written_again() -> None:
    wrong = ADDS.replace("+ int(b)", "- int(b)").replace("str(", "str(-1000 + ")
    answers, told, note = made(wrong, ADDS, attempts=2)
    assert answers == {"40+2": "42"}
    answers, told, note = made(wrong, attempts=1)
    assert answers == {"40+2": "greedy"}
    assert told["40+2"].agreement == 0
    assert not note["verified"]
    assert note["why"] == "0.00 of the answers with it were right, 0.00 without it"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("I cannot.", "there was no program in it"),
        ("", "there was no program in it"),
        ("```python\nraise RuntimeError('no')\n```", "it returned no text; RuntimeError: no"),
        ("```python\ndef other(q):\n    return '1'\n```", "NameError: there is no function solve"),
        ("```python\ndef solve(question):\n    return [1]\n```", "it returned no text"),
        (
            "```python\ndef solve(question):\n    return open('/etc/passwd').read()\n```",
            "it returned no text",
        ),
        ("```python\ndef solve(question):\n    while True: pass\n```", "broke the limit of time"),
    ],
)
def test_what_is_no_tool_is_rejected_with_the_reason(written: str, why: str) -> None:
    answers, _, note = made(written, attempts=1, cpu_seconds=1)
    assert answers == {"40+2": "greedy"}
    assert why in note["why"]


def test_a_tool_is_retired_when_it_fails() -> None:
    tasks = ("1+2", "one and two", "3+4", "three", "5+6", "7+8")
    answers, _, note = made(ADDS, tasks=tasks, failures=2)
    assert answers == {
        "1+2": "3",
        "one and two": "greedy",
        "3+4": "7",
        "three": "greedy",
        "5+6": "greedy",
        "7+8": "greedy",
    }
    assert (note["called"], note["failed"], note["retired"]) == (4, 2, True)


def test_without_solved_tasks_no_tool_is_written() -> None:
    answers, _ = refine("tool_making", Policy(lambda asked: "no"), {"1+1": "greedy"}, practice=PRACTICE)
    assert answers == {"1+1": "greedy"}


def test_the_rules_in_numbers() -> None:
    assert usable([True, False, True, False, True], 2) == [True, True, True, True, False]
    assert usable([False, True], 1) == [True, False]
    assert verified(20, 22, 0.6)  # wilson: 0.72 to 0.97
    assert not verified(20, 22, 0.75)
    assert not verified(22, 22, 1.0)
