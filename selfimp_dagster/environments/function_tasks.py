"""Tasks for the environment `code`: what a function must do with a list of integers, and tests of it.

A task chains small operations, so that there are many, each can be said in a few words, and the number of
operations is its difficulty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, TypeAlias

Numbers: TypeAlias = list[int]
Result: TypeAlias = Numbers | int

_LEAST_DIFFERENT = 3  # results among the hidden tests, so that no constant passes


class _Operation(NamedTuple):
    words: str
    apply: Callable[[Numbers], Numbers]


class _Ending(NamedTuple):
    words: str
    apply: Callable[[Numbers], Result]


class Test(NamedTuple):
    """What the function is given, and what it must return."""

    numbers: Numbers
    expected: Result


@dataclass(frozen=True)
class FunctionTask:
    """What the function must do, in order, and its tests: those that are shown and those that are not."""

    steps: tuple[str, ...]
    visible: tuple[Test, ...]
    hidden: tuple[Test, ...]


def draw_task(seed: int, operations: int, visible: int, hidden: int) -> FunctionTask:
    """The task of a seed: so many operations and an ending, with different lists in all of its tests.

    The hidden tests include the empty list and a list with one number.
    """
    chosen = Random(seed)
    while True:
        steps = _operations(chosen, operations)
        ending = chosen.choice(_ENDINGS)
        inputs: list[Numbers] = [[], [chosen.randint(-9, 9)]]
        while len(inputs) < visible + hidden:
            numbers = [chosen.randint(-9, 20) for _ in range(chosen.randint(2, 8))]
            if numbers not in inputs:
                inputs.append(numbers)
        tests = [Test(numbers, _result(numbers, steps, ending)) for numbers in inputs]
        unseen, shown = tests[:hidden], tests[hidden:]
        if len({str(test.expected) for test in unseen}) >= min(_LEAST_DIFFERENT, hidden):
            words = (*(step.words for step in steps), ending.words)
            return FunctionTask(words, tuple(shown), tuple(unseen))


def _operations(chosen: Random, count: int) -> list[_Operation]:
    """Operations of which no two neighbours are of one kind, so that none undoes the one before it."""
    kinds: list[Callable[[Random], _Operation]] = []
    for _ in range(count):
        kinds.append(chosen.choice([kind for kind in _KINDS if kind not in kinds[-1:]]))
    return [kind(chosen) for kind in kinds]


def _result(numbers: Numbers, steps: list[_Operation], ending: _Ending) -> Result:
    for step in steps:
        numbers = step.apply(numbers)
    return ending.apply(numbers)


def _filter(chosen: Random) -> _Operation:
    least = chosen.randint(-2, 6)
    return chosen.choice(
        [
            _Operation("keep only the even numbers", lambda ns: [n for n in ns if n % 2 == 0]),
            _Operation("keep only the odd numbers", lambda ns: [n for n in ns if n % 2 == 1]),
            _Operation(f"keep only the numbers above {least}", lambda ns: [n for n in ns if n > least]),
        ]
    )


def _change(chosen: Random) -> _Operation:
    by = chosen.randint(2, 9)
    return chosen.choice(
        [
            _Operation(f"add {by} to each number", lambda ns: [n + by for n in ns]),
            _Operation(f"multiply each number by {by}", lambda ns: [n * by for n in ns]),
            _Operation("square each number", lambda ns: [n * n for n in ns]),
            _Operation("replace each number by its absolute value", lambda ns: [abs(n) for n in ns]),
        ]
    )


def _order(chosen: Random) -> _Operation:
    return chosen.choice(
        [
            _Operation("sort the numbers in ascending order", sorted),
            _Operation("sort the numbers in descending order", lambda ns: sorted(ns, reverse=True)),
            _Operation("reverse the order of the numbers", lambda ns: ns[::-1]),
        ]
    )


def _cut(chosen: Random) -> _Operation:
    count = chosen.randint(2, 4)
    return chosen.choice(
        [
            _Operation(f"keep only the first {count} numbers", lambda ns: ns[:count]),
            _Operation(f"keep only the last {count} numbers", lambda ns: ns[-count:]),
            _Operation("remove numbers that occurred before", lambda ns: list(dict.fromkeys(ns))),
        ]
    )


_KINDS = (_filter, _change, _order, _cut)

_ENDINGS = (
    _Ending("return the list", lambda ns: ns),
    _Ending("return the sum of the numbers", sum),
    _Ending("return how many numbers there are", len),
    _Ending("return the largest number, or 0 if there is none", lambda ns: max(ns, default=0)),
)
