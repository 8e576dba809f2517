"""A word problem with other numbers, its worked solution computed again."""

import ast
import json
import random
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from selfimp_dagster.records import derive_seed
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations.quantities import constants_of
from selfimp_dagster.tasks.transformations.twin import judged_by_answer, twin

_DRAWS = 300
"""Sets of new numbers that are tried before the problem counts as one whose numbers cannot be changed."""

_LEAST = 5
"""Smaller numbers stay: they may be those of persons that are named, of legs, sides, halves and pairs."""

_LONGEST = 200
"""Characters of a formula that is read at all."""

_DECIMALS = 100
"""A result that was not whole may have hundredths, no more."""

_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+")
_ANNOTATION = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
_MARK = "\0"
_UNANNOTATED = re.compile(rf"=(?!\s*[$£€]?\s*{_MARK})")
_LEAF = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_BEFORE = re.compile(r"(?:^|[\s(\"“])[$£€]?$")
_NOT_AFTER = re.compile(
    r"[\w%°/:'\u2019]|[.,]\d|-\d|\s*(?:%|percent|per cent|[ap]\.?m\b|o'clock|hundred|thousand|million|"
    r"billion|(?:dollar )?bills?\b)",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(an?) [$£€]?$", re.IGNORECASE)
_ALLOWED = (ast.BinOp, ast.Name, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div)
_CAPS = (
    (re.compile(r"[- ](?:school |working |work )?days?\b"), 7),
    (re.compile(r"[- ]hours?\b"), 24),
    (re.compile(r"[- ](?:minutes?|seconds?|weeks?)\b"), 60),
    (re.compile(r"[- ](?:months?|inch(?:es)?)\b"), 12),
    (re.compile(r"[- ](?:cents?|pennies)\b"), 100),
)
"""What a number of these that was no more than so many does not exceed afterwards."""

_PARTS = (
    (re.compile(r"\bweek|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"), 7),
    (re.compile(r"\byear"), 12),
)
_DAYS_OR_MONTHS = re.compile(r"[- ](?:\w+ )?(?:days?|months?)\b")
"""Numbers of days in a prompt about weeks, and of months in one about years: their sum may be known."""

_COMPARES = re.compile(
    r"\b(?:\w+est|most|least|maximum|minimum|whichever|better|cheaper|faster|slower|winner|wins?)\b",
    re.IGNORECASE,
)
"""What may ask for the larger or smaller of numbers that were computed."""


@dataclass(frozen=True)
class _Step:
    """An annotation: its formula over the names n0, n1, ..., the numbers that these stand for, its result."""

    formula: ast.expr
    leaves: tuple[Fraction, ...]
    result: Fraction


@dataclass(frozen=True)
class _Problem:
    """A word problem that is solved by its annotated steps alone.

    `stated` are the numbers that the prompt writes in digits, `free` those of them that may be changed,
    with the most that each may become, and `constants` what else its words say. `compared`: the order of its
    results may matter.
    """

    stated: frozenset[Fraction]
    compared: bool
    free: Mapping[int, int | None]
    constants: frozenset[Fraction]
    steps: tuple[_Step, ...]

    def results(self, changed: Mapping[Fraction, Fraction]) -> list[Fraction] | None:
        """The result of every step with other numbers; None if a number could be read in two ways that are
        now different, or a result is not as it should be."""
        results: list[Fraction] = []
        for number, step in enumerate(self.steps):
            values = []
            for leaf in step.leaves:
                readings = {changed.get(leaf, leaf)} if leaf in self.stated else set()
                readings |= {leaf} & self.constants
                readings |= {
                    result
                    for earlier, result in zip(self.steps[:number], results, strict=True)
                    if earlier.result == leaf
                }
                if len(readings) != 1:
                    return None
                values.append(readings.pop())
            try:
                result = _evaluated(step.formula, values)
            except ZeroDivisionError:
                return None
            whole = step.result.denominator == 1
            if result <= 0 or (result * (1 if whole else _DECIMALS)).denominator != 1:
                return None
            results.append(result)
        old = [*self.stated, *(step.result for step in self.steps)] if self.compared else [*self.stated]
        new = [*(changed.get(value, value) for value in self.stated), *(results if self.compared else ())]
        return results if _in_the_same_order(old, new) else None


def numbers(task: Task, seed: int) -> Task | None:
    """A word problem with other numbers, and the answer that its worked solution then has.

    The solution is annotated as those of GSM8K are (arXiv:2110.14168): `48/2 = <<48/2=24>>24`. Every number
    in an annotation must be one of the prompt, an earlier result, or a constant that the prompt names (half,
    a dozen, a week); where it may be several of these, all must have the same new value. The steps must be
    the whole solution: each gives its result exactly, each result is used, the last one is the answer, and
    what stands between them has no equation and no number of its own; all numbers of the prompt must be used.
    New numbers keep the order of the old ones and their roundness; results stay above zero, and whole where
    they were. Small numbers, dates, times, percentages and fractions are not changed.
    """
    problem = _problem(task)
    if problem is None:
        return None
    chosen = random.Random(derive_seed("numbers", task.task_id, seed))
    for _ in range(_DRAWS):
        changed = _other_numbers(problem, chosen)
        results = problem.results(changed)
        if results is None or results[-1] == problem.steps[-1].result:
            continue
        prompt = _with_numbers(task.prompt, changed)
        if prompt is not None:
            return twin("numbers", task, prompt, str(results[-1].numerator))
    return None


def _problem(task: Task) -> _Problem | None:
    """The problem as it can be computed again; None if its solution is not understood completely."""
    if task.entry is None or task.answer is None or not judged_by_answer(task):
        return None
    solution = json.loads(task.entry)["solution"]
    steps = _steps(solution)
    if not steps or not re.fullmatch(r"\d[\d,]*", task.answer):
        return None
    stated, free = _stated(task.prompt)
    if not free:
        return None
    problem = _Problem(
        stated, _COMPARES.search(task.prompt) is not None, free, constants_of(task.prompt), steps
    )
    results = [step.result for step in steps]
    leaves = {leaf for step in steps for leaf in step.leaves}
    used = all(
        any(result in later.leaves for later in steps[number + 1 :])
        for number, result in enumerate(results[:-1])
    )
    if not used or results[-1] != Fraction(task.answer.replace(",", "")) or not stated <= leaves:
        return None
    known = stated | problem.constants | leaves | set(results)
    if problem.results({}) != results or not _accounted(solution, known):
        return None
    return problem


def _steps(solution: str) -> tuple[_Step, ...]:
    """The annotated steps; none if one of them is not arithmetic."""
    steps = []
    for formula, result in _ANNOTATION.findall(solution):
        if len(formula) > _LONGEST or not _LEAF.fullmatch(result.strip()):
            return ()
        leaves = tuple(map(Fraction, _LEAF.findall(formula)))
        named = "".join(f"{text}n{number}" for number, text in enumerate(_LEAF.split(formula)))
        try:
            parsed = ast.parse(named.rpartition("n")[0].strip(), mode="eval").body
        except SyntaxError:
            return ()
        if isinstance(parsed, ast.Name) or not all(isinstance(node, _ALLOWED) for node in ast.walk(parsed)):
            return ()
        steps.append(_Step(parsed, leaves, Fraction(result.strip())))
    return tuple(steps)


def _evaluated(formula: ast.expr, values: list[Fraction]) -> Fraction:
    if isinstance(formula, ast.Name):
        return values[int(formula.id[1:])]
    assert isinstance(formula, ast.BinOp)
    left, right = _evaluated(formula.left, values), _evaluated(formula.right, values)
    match formula.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case _:
            return left / right


def _accounted(solution: str, known: AbstractSet[Fraction]) -> bool:
    """Whether the text between the annotations has no equation and no number of its own."""
    text = _ANNOTATION.sub(_MARK, solution.partition("####")[0])
    return not _UNANNOTATED.search(text) and all(_number(found) in known for found in _NUMBER.findall(text))


def _number(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _stated(prompt: str) -> tuple[frozenset[Fraction], dict[int, int | None]]:
    """The numbers in the prompt, and those that may be changed wherever they stand, with their caps."""
    stated: set[Fraction] = set()
    fixed: set[int] = set()
    free: dict[int, int | None] = {}
    for match in _NUMBER.finditer(prompt):
        value = _number(match[0])
        stated.add(value)
        if not _changeable(prompt, match):
            fixed.add(int(value))
            continue
        cap = next((cap for unit, cap in _CAPS if unit.match(prompt, match.end()) and value <= cap), None)
        free[int(value)] = min((c for c in (cap, free.get(int(value))) if c is not None), default=None)
    return frozenset(stated), {value: cap for value, cap in free.items() if value not in fixed}


def _changeable(prompt: str, match: re.Match[str]) -> bool:
    value = _number(match[0])
    if value.denominator != 1 or value < _LEAST or "." in match[0]:
        return False
    if any(
        value <= parts and _DAYS_OR_MONTHS.match(prompt, match.end()) and whole.search(prompt)
        for whole, parts in _PARTS
    ):
        return False
    if re.fullmatch(r"1[5-9]\d\d|20\d\d", match[0]):  # a year
        return False
    return bool(
        _BEFORE.search(prompt, max(0, match.start() - 2), match.start())
        and not _NOT_AFTER.match(prompt, match.end())
    )


def _other_numbers(problem: _Problem, chosen: random.Random) -> dict[Fraction, Fraction]:
    """New values for some of the numbers that may be changed."""
    free = sorted(problem.free)
    picked = chosen.sample(free, chosen.randint(1, len(free)))
    changed = {Fraction(value): Fraction(_other(value, problem.free[value], chosen)) for value in picked}
    return {old: new for old, new in changed.items() if old != new}


def _in_the_same_order(old: Sequence[Fraction], new: Sequence[Fraction]) -> bool:
    """Whether what was smaller, equal or larger still is."""
    pairs = sorted(zip(old, new, strict=True))
    return all(
        (before[0] < after[0]) == (before[1] < after[1]) and before[1] <= after[1]
        for before, after in pairwise(pairs)
    )


def _other(value: int, cap: int | None, chosen: random.Random) -> int:
    """A number of about the same size that is as round."""
    step = next(step for step in _ROUND if value % step == 0 and value >= 3 * step)
    low, high = max(3, value * 3 // 5), value * 8 // 5
    if cap is not None:
        high = min(high, cap)
    return step * chosen.randint(-(-low // step), high // step)


_ROUND = (10_000, 1_000, 500, 100, 50, 10, 5, 1)


def _with_numbers(prompt: str, changed: Mapping[Fraction, Fraction]) -> str | None:
    """The prompt with new numbers; None if an article before one of them would be wrong."""
    parts, done = [], 0
    for match in _NUMBER.finditer(prompt):
        new = changed.get(_number(match[0]))
        if new is None:
            continue
        digits = f"{new.numerator:,}" if "," in match[0] else str(new.numerator)
        article = _ARTICLE.search(prompt, max(0, match.start() - 4), match.start())
        if article and (article[1].lower() == "an") != _spoken_with_a_vowel(new.numerator):
            return None
        parts += [prompt[done : match.start()], digits]
        done = match.end()
    return "".join([*parts, prompt[done:]])


def _spoken_with_a_vowel(value: int) -> bool:
    """Whether its name begins with a vowel: 8, 80, 800, 8,000, 11, 18, 11,000, ..."""
    leading = f"{value:,}".split(",")[0]
    return leading[0] == "8" or leading in ("11", "18")
