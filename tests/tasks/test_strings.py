"""Strings: answers that are right, levels that are lengths, and judging to the letter."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.tasks.pools import check_disjoint, draw_pool
from selfimp_dagster.tasks.strings import OPERATIONS, items
from selfimp_dagster.tasks.suites import StringsSource, stream_tasks
from selfimp_dagster.tasks.verifiers import comparable_answer, verify


@given(st.sampled_from(OPERATIONS), st.integers(1, 12), st.integers(0, 10**6))
def test_every_answer_is_right(operation: str, length: int, seed: int) -> None:
    for prompt, answer, level in islice(items(operation, [length], seed), 5):
        asked = prompt[1:]
        assert level == length
        match operation:
            case "copy":
                assert answer == asked
            case "reverse":
                assert answer == asked[::-1]
            case _:
                first, second = int(asked[::2][::-1]), int(asked[1::2][::-1])
                assert len(asked) == len(answer) == 2 * length
                assert int(answer[-2] + answer[1::2][::-1]) == first + second


def test_the_documented_example() -> None:
    asked = {prompt: answer for prompt, answer, _ in islice(items("addition", [2], 0), 50_000)}
    assert asked["+9217"] == "1109"  # 19 + 72


def test_lengths_are_equally_frequent_and_the_stream_follows_from_the_seed() -> None:
    source = StringsSource(operation="copy", shortest=3, longest=5)
    tasks = list(islice(stream_tasks(source, "s", 1, Path()), 900))
    assert tasks == list(islice(stream_tasks(source, "s", 1, Path()), 900))
    counts = Counter(task.difficulty for task in tasks)
    assert set(counts) == {3, 4, 5}
    assert min(counts.values()) > 240
    assert all(len(task.answer or "") == task.difficulty for task in tasks)


def test_a_draw_holds_to_the_levels_that_it_is_given() -> None:
    sources = {
        "a": StringsSource(operation="copy", longest=9),
        "b": StringsSource(operation="reverse", longest=9),
    }
    drawn = draw_pool("train", sources, 60, 0, 0.4, Path(), levels={"a": [7, 8]})
    assert {task.difficulty for task in drawn.tasks if task.skill == "a"} == {7, 8}
    assert len({task.difficulty for task in drawn.tasks if task.skill == "b"}) > 4
    none = draw_pool("train", sources, 60, 0, 0.4, Path(), levels={"a": [99]})
    assert {task.skill for task in none.tasks} == {"b"}
    assert none.shortfall == {"a": 30}


@pytest.mark.parametrize(
    ("response", "value"),
    [("0310", 1), (" 0310\n", 1), ("310", 0), ("0310.", 0), ("", 0), ("The answer is 0310", 0)],
)
def test_answers_are_judged_to_the_letter(response: str, value: int) -> None:
    source = StringsSource(operation="addition", shortest=2, longest=2)
    task = next(t for t in stream_tasks(source, "s", 0, Path()) if t.answer == "0310")
    assert verify(task, response).value == value
    assert comparable_answer(task, response) == (response.strip() or None)


def test_a_range_without_a_length_is_refused() -> None:
    with pytest.raises(ValidationError, match="shortest 5 is above longest 3"):
        StringsSource(operation="copy", shortest=5, longest=3)


def test_lengths_that_are_trained_on_cannot_be_guarded() -> None:
    trained, guarded = (StringsSource(operation="copy", shortest=a, longest=b) for a, b in ((1, 5), (5, 9)))
    with pytest.raises(SelfimpError, match="copy of 5 places"):
        check_disjoint({"a": trained}, {"b": guarded}, Path())
    check_disjoint({"a": trained}, {"b": StringsSource(operation="reverse", longest=9)}, Path())
