"""Writing a Python function that passes tests, over several turns."""

from collections.abc import Sequence

from pydantic import Field

from selfimp_dagster.environments.function_tasks import FunctionTask, Test, draw_task
from selfimp_dagster.environments.protocol import Bounds, Step, environment
from selfimp_dagster.sandbox.functions import call_function, program_in

_SHOWN = 200  # characters of a value or an error that the policy is shown
_NAME = "transform"


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
        called = call_function(
            source, _NAME, [[test.numbers] for test in tests], cpu_seconds=self._parameters.cpu_seconds
        )
        failures = []
        for test, came in zip(tests, called, strict=True):
            if came.kind == "error":
                failures.append(f"{_call(test)} failed: {_short(str(came.value))}.")
            elif came.kind == "silent":
                failures.append(f"{_call(test)} {came.value}.")
            elif not came.returned(test.expected):
                failures.append(f"{_call(test)} returned {_short(repr(came.value))}, not {test.expected}.")
        return failures


def _call(test: Test) -> str:
    return f"{_NAME}({test.numbers})"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
