"""Writing a Python function that passes tests, over several turns."""

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from selfimp_dagster.environments.function_tasks import FunctionTask, Test, draw_task
from selfimp_dagster.environments.protocol import Bounds, Step, environment
from selfimp_dagster.records import canonical_json
from selfimp_dagster.sandbox.machine import machine_sandbox
from selfimp_dagster.sandbox.run import Limits

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_SHOWN = 200  # characters of a value or an error that the policy is shown
_WALL_SECONDS_PER_CPU_SECOND = 5  # a busy machine must not turn a program that computes into one that hangs
_NAME = "transform"

# Its own copy of standard output is all that it reports on; what the function prints goes elsewhere. Expected
# results stay outside: a program that looks around in here finds none.
_DRIVER = """
import json, os, random, sys, traceback

given = json.load(sys.stdin)
reports = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def tell(number, kind, value):
    text = json.dumps([number, kind, value])
    if len(text) > 4000:
        text = json.dumps([number, "error", "it returned too much"])
    print(text, file=reports, flush=True)


def what(error):
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "solution.py"]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}"[:500] + where


def missing(*arguments):
    raise NameError(f"there is no function {given['name']}")


names = {"__name__": "solution", given["name"]: missing}
try:
    exec(compile(given["source"], "solution.py", "exec"), names)
except BaseException as error:
    tell(-1, "error", what(error))
else:
    for number, arguments in enumerate(given["calls"]):
        random.seed(0)
        try:
            tell(number, "value", names[given["name"]](*json.loads(arguments)))
        except BaseException as error:
            tell(number, "error", what(error))
"""


class CodeParameters(Bounds):
    """Parameters of `code`."""

    turns: int = Field(default=3, ge=1, description="Turns after which an episode ends.")
    max_new_tokens: int = Field(default=256, ge=1, description="Tokens after which an action is cut off.")
    operations: int = Field(default=2, ge=1, le=6, description="Operations that the function must chain.")
    visible_tests: int = Field(default=3, ge=1, le=10, description="Tests that the policy is shown.")
    hidden_tests: int = Field(default=8, ge=4, le=50, description="Tests that decide the outcome.")
    cpu_seconds: int = Field(
        default=2, ge=1, le=60, description="Seconds that all tests together may compute."
    )


@environment("code", parameters=CodeParameters, version=1, runs_programs=True)
class Code:
    """Writes a Python function to a description and examples, and corrects it after failed examples.

    What it must do with a list of integers, and its tests, are drawn from the seed. Programs run in the
    sandbox, which never holds an expected result. Outcome: 1 if the last function passes all examples and all
    hidden tests, else 0. Progress of a turn: the share of examples that its function passes.
    """

    reminder = f"Answer with the whole function `{_NAME}` in one ```python block."

    def __init__(self, parameters: CodeParameters) -> None:
        self._parameters = parameters
        self._limits = Limits(
            cpu_seconds=parameters.cpu_seconds,
            wall_seconds=parameters.cpu_seconds * _WALL_SECONDS_PER_CPU_SECOND,
        )

    def reset(self, seed: int) -> str:
        parameters = self._parameters
        self._task: FunctionTask = draw_task(
            seed, parameters.operations, parameters.visible_tests, parameters.hidden_tests
        )
        self._passing: str | None = None
        steps = "\n".join(f"{place}. {step}" for place, step in enumerate(self._task.steps, start=1))
        examples = "\n".join(f"{_call(test)} == {test.expected}" for test in self._task.visible)
        return (
            f"Write a Python function `{_NAME}(numbers)` that takes a list of integers and does this, in "
            f"order:\n{steps}\n\nExamples:\n{examples}\n\n{self.reminder}"
        )

    def step(self, action: str) -> Step:
        source = program_in(action)
        if source is None:
            return Step(
                f"There is no program in that. {self.reminder}", valid=False, progress=0.0, done=False
            )
        failures = self._failures(source, self._task.visible)
        passed = 1 - len(failures) / len(self._task.visible)
        self._passing = None if failures else source
        if not failures:
            return Step("All examples are right.", valid=True, progress=1.0, done=True)
        told = "\n".join(failures)
        return Step(
            f"{len(failures)} of {len(self._task.visible)} examples are wrong.\n{told}\n\n{self.reminder}",
            valid=True,
            progress=passed,
            done=False,
        )

    def outcome(self) -> float:
        if self._passing is None:
            return 0.0
        return float(not self._failures(self._passing, self._task.hidden))

    def _failures(self, source: str, tests: Sequence[Test]) -> list[str]:
        """A sentence for each test that the program does not pass."""
        given = {
            "source": source,
            "name": _NAME,
            "calls": [canonical_json([test.numbers]) for test in tests],
        }
        ended = machine_sandbox().run(_DRIVER, canonical_json(given), limits=self._limits)
        reports = read_reports(ended.stdout)
        silent = f"broke the limit of {ended.limit}" if ended.limit else "ended the program"
        failures = []
        for number, test in enumerate(tests):
            kind, value = reports.get(-1) or reports.get(number) or ("silent", silent)
            if kind == "value" and canonical_json(value) != canonical_json(test.expected):
                failures.append(f"{_call(test)} returned {_short(repr(value))}, not {test.expected}.")
            elif kind == "error":
                failures.append(f"{_call(test)} failed: {_short(str(value))}.")
            elif kind == "silent":
                failures.append(f"{_call(test)} {value}.")
        return failures


def program_in(text: str) -> str | None:
    """The last fenced program of the text, or all of it where it is one without fences; else None."""
    fenced = _FENCED.findall(text)
    if fenced:
        return str(fenced[-1])
    return text if re.search(r"^(def|import|from)\b|\blambda\b", text, re.MULTILINE) else None


def read_reports(output: str) -> dict[int, tuple[str, Any]]:
    """What the driver reported of each test, by number: `value` or `error`, and which.

    Lines that are no report are left out; a program can write what it likes there and gains nothing, since it
    does not know what is expected.
    """
    reports: dict[int, tuple[str, Any]] = {}
    for line in output.splitlines():
        try:
            number, kind, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if type(number) is int and kind in ("value", "error"):
            reports[number] = (kind, value)
    return reports


def _call(test: Test) -> str:
    return f"{_NAME}({test.numbers})"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
