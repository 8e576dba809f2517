"""Each world: what actions do, what they are worth, and that all follows from the seed."""

import re
from collections import deque
from pathlib import Path

import pytest

from selfimp_dagster.environments import function_tasks
from selfimp_dagster.environments.code import Code, CodeParameters
from selfimp_dagster.environments.protocol import all_environments, environment, find_environment
from selfimp_dagster.environments.toy_text import (
    FrozenLake,
    FrozenLakeParameters,
    Taxi,
    TaxiParameters,
    chosen_word,
    steps_to_goal,
)
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.sandbox.functions import Called, program_in, read_reports


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("left", "left"),
        ("I go LEFT, to the left.", "left"),
        ("left or right", None),
        ("leftover", None),
        ("", None),
    ],
)
def test_the_one_word_that_is_chosen(text: str, word: str | None) -> None:
    assert chosen_word(text, ("left", "right")) == word


def _way(lake: list[str]) -> list[str]:
    """A shortest way over the ice, found without Gymnasium."""
    size = len(lake)
    waiting: deque[tuple[int, int, list[str]]] = deque([(0, 0, [])])
    seen = {(0, 0)}
    while waiting:
        row, column, way = waiting.popleft()
        if lake[row][column] == "G":
            return way
        for word, (down, right) in {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}.items():
            at = (row + down, column + right)
            if at not in seen and all(0 <= c < size for c in at) and lake[at[0]][at[1]] != "H":
                seen.add(at)
                waiting.append((*at, [*way, word]))
    raise AssertionError("no way")


@pytest.mark.parametrize("seed", range(5))
def test_a_shortest_way_over_the_lake_is_worth_everything(seed: int) -> None:
    world = FrozenLake(FrozenLakeParameters())
    told = world.reset(seed)
    lake = [line.replace("P", "S") for line in re.findall(r"^[PSFHG]{4}$", told, re.MULTILINE)]
    steps = [world.step(word) for word in _way(lake)]
    assert all(step.valid and step.progress == 1 for step in steps)
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert world.outcome() == 1


def test_walking_against_the_edge_or_away_is_worth_nothing_and_nonsense_changes_nothing() -> None:
    world = FrozenLake(FrozenLakeParameters())
    told = world.reset(0)
    assert world.reset(0) == told
    step = world.step("up")
    assert (step.valid, step.progress, step.done) == (True, 0, False)
    assert "cannot walk up" in step.observation
    nonsense = world.step("fly north")
    assert (nonsense.valid, nonsense.done) == (False, False)
    assert world.outcome() == 0


def test_falling_into_a_hole_ends_the_episode_with_nothing() -> None:
    for seed in range(50):
        world = FrozenLake(FrozenLakeParameters())
        told = world.reset(seed)
        lake = re.findall(r"^[PSFHG]{4}$", told, re.MULTILINE)
        if lake[0][1] == "H":
            step = world.step("right")
            assert (step.done, step.progress, world.outcome()) == (True, 0, 0)
            return
    raise AssertionError("no lake with a hole beside the start")


@pytest.mark.parametrize("seed", range(3))
def test_a_taxi_on_a_shortest_way_delivers_its_passenger(seed: int) -> None:
    world = Taxi(TaxiParameters())
    world.reset(seed)
    ways = steps_to_goal(world._world.P)
    for _ in range(ways[int(world._world.s)]):
        here = int(world._world.s)
        word = next(
            word
            for number, word in enumerate(Taxi._ACTIONS)
            for ((_, after, reward, ended),) in [world._world.P[here][number]]
            if (ended and reward > 0) or (not ended and ways.get(int(after), 99) < ways[here])
        )
        step = world.step(word)
        assert (step.valid, step.progress) == (True, 1)
    assert step.done
    assert world.outcome() == 1


def test_a_taxi_understands_actions_in_two_words() -> None:
    world = Taxi(TaxiParameters())
    world.reset(0)
    assert world.step("Pick up!").valid
    assert not world.step("pick up and drop off").valid
    assert not world.step("wait").valid


def _solution(seed: int) -> str:
    """A program for a task of the code environment, from its words."""
    task = function_tasks.draw_task(seed, operations=2, visible=3, hidden=8)
    programs = {
        r"keep only the even numbers": "ns = [n for n in ns if n % 2 == 0]",
        r"keep only the odd numbers": "ns = [n for n in ns if n % 2 == 1]",
        r"keep only the numbers above (-?\d+)": "ns = [n for n in ns if n > {0}]",
        r"add (\d+) to each number": "ns = [n + {0} for n in ns]",
        r"multiply each number by (\d+)": "ns = [n * {0} for n in ns]",
        r"square each number": "ns = [n * n for n in ns]",
        r"replace each number by its absolute value": "ns = [abs(n) for n in ns]",
        r"sort the numbers in ascending order": "ns = sorted(ns)",
        r"sort the numbers in descending order": "ns = sorted(ns)[::-1]",
        r"reverse the order of the numbers": "ns = ns[::-1]",
        r"keep only the first (\d+) numbers": "ns = ns[:{0}]",
        r"keep only the last (\d+) numbers": "ns = ns[-{0}:]",
        r"remove numbers that occurred before": "ns = list(dict.fromkeys(ns))",
        r"return the list": "return ns",
        r"return the sum of the numbers": "return sum(ns)",
        r"return how many numbers there are": "return len(ns)",
        r"return the largest number, or 0 if there is none": "return max(ns) if ns else 0",
    }
    lines = []
    for words in task.steps:
        form, match = next((p, m) for p, m in ((p, re.fullmatch(p, words)) for p in programs) if m)
        lines.append(programs[form].format(*match.groups()))
    return "def transform(ns):\n    " + "\n    ".join(lines)


@pytest.mark.parametrize("seed", range(3))
def test_a_program_that_does_what_is_asked_passes_all_tests(seed: int) -> None:
    world = Code(CodeParameters())
    assert world.reset(seed) == world.reset(seed)
    step = world.step(f"Here it is:\n```python\n{_solution(seed)}\n```")
    assert (step.valid, step.progress, step.done) == (True, 1, True)
    assert world.outcome() == 1


def test_a_program_that_knows_the_examples_alone_fails_the_hidden_tests() -> None:
    world = Code(CodeParameters())
    world.reset(0)
    known = {str(test.numbers): test.expected for test in world._task.visible}
    step = world.step(f"```python\ndef transform(numbers):\n    return {known!r}.get(str(numbers))\n```")
    assert step.done
    assert world.outcome() == 0


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("def transform(numbers): return 1 / 0", "ZeroDivisionError"),
        ("def transform(numbers) return", "SyntaxError"),
        ("def other(numbers): return 0", "no function transform"),
        ("def transform(numbers):\n    while True: pass", "broke the limit of time"),
        ("import os\nos._exit(0)\ndef transform(n): pass", "ended the program"),
        ("def transform(numbers): return 'x' * 5000", "returned too much"),
        ("def transform(numbers): print('[0, \"value\", 0]'); return None", "returned None"),
    ],
)
def test_what_is_wrong_with_a_program_is_told_and_counts_nothing(program: str, told: str) -> None:
    world = Code(CodeParameters(cpu_seconds=1))
    world.reset(0)
    step = world.step(f"```python\n{program}\n```")
    assert told in step.observation
    assert (step.valid, step.progress, step.done, world.outcome()) == (True, 0, False, 0)


def test_text_without_a_program_is_an_invalid_action() -> None:
    world = Code(CodeParameters())
    world.reset(0)
    assert not world.step("I would sort the list.").valid
    assert program_in("def f(x):\n    return x") == "def f(x):\n    return x"
    assert program_in("```\na = 1\n```\nno:\n```python\nb = 2\n```") == "b = 2\n"


def test_lines_that_are_no_report_are_left_out() -> None:
    assert read_reports('hello\n[0, "value", 3]\n[1, "error"]\n["0", "value", 1]\n{}\n' + "[" * 9999) == {
        0: Called("value", 3)
    }


def test_tasks_differ_by_seed_and_no_constant_passes() -> None:
    tasks = [function_tasks.draw_task(seed, 2, 3, 8) for seed in range(40)]
    assert len({task.steps for task in tasks}) > 30
    assert all(len({str(test.expected) for test in task.hidden}) >= 3 for task in tasks)


def test_environments_are_found_by_name_and_no_name_is_taken_twice() -> None:
    assert [kind.name for kind in all_environments()] == ["code", "frozen_lake", "taxi"]
    with pytest.raises(SelfimpError, match="there is no environment 'chess'") as refused:
        find_environment("chess")
    assert "frozen_lake" in refused.value.fix
    with pytest.raises(ValueError, match="already"):
        environment("taxi", parameters=TaxiParameters, version=1)(Taxi)


def test_the_documented_parameters_and_their_defaults_are_those_of_the_environments() -> None:
    page = (Path(__file__).parents[2] / "docs/environments.md").read_text(encoding="utf-8")
    documented: dict[str, dict[str, str]] = {}
    rows = re.findall(r"^\| `?(\w+)`? \| `(\w+)` \| (\S+) \|", page, re.MULTILINE)
    for name, parameter, default in rows:
        documented.setdefault(name, {})[parameter] = default
    for kind in all_environments():
        fields = {name: str(field.default) for name, field in kind.parameters.model_fields.items()}
        assert documented["all"] | documented[kind.name] == fields


def test_another_goal_is_shown_and_reached_and_a_hole_is_none() -> None:
    world = FrozenLake(FrozenLakeParameters(goal=(1, 0)))
    told = world.reset(3)
    lake = re.findall(r"^[PSFHG]{4}$", told, re.MULTILINE)
    assert "G, in row 1 and column 0, is the goal." in told
    assert (lake[1][0], lake[3][3]) == ("G", "F")
    assert world.step("down").done
    assert world.outcome() == 1
    row, column = next((r, c) for r in range(4) for c in range(4) if lake[r][c] == "H")
    with pytest.raises(ValueError, match="is a hole"):
        FrozenLake(FrozenLakeParameters(goal=(row, column))).reset(3)


def test_a_taxi_can_be_sent_to_a_place() -> None:
    world = Taxi(TaxiParameters(goal=(2, 2)))
    told = world.reset(0)
    assert "Drive to row 2, column 2: that is all." in told
    for _ in range(9):
        at = world.reached().goal
        assert isinstance(at, tuple)
        way = ("south" if at[0] < 2 else "north") if at[0] != 2 else "east" if at[1] < 2 else "west"
        step = world.step(way)
        assert step.progress == 1
        if step.done:
            break
    assert world.outcome() == 1
    assert world.reached().goal == (2, 2)
