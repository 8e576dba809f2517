"""Calls functions that a model wrote, in the sandbox.

The process that runs a function never holds what is expected of it: results are compared outside.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfimp_dagster.records import canonical_json
from selfimp_dagster.sandbox.machine import machine_sandbox
from selfimp_dagster.sandbox.run import Limits

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_WALL_SECONDS_PER_CPU_SECOND = 5  # a busy machine must not turn a program that computes into one that hangs

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
random.seed(given["seed"])
try:
    exec(compile(given["source"], "solution.py", "exec"), names)
except BaseException as error:
    tell(-1, "error", what(error))
else:
    for number, arguments in enumerate(given["calls"]):
        random.seed(given["seed"])
        try:
            tell(number, "value", names[given["name"]](*json.loads(arguments)))
        except BaseException as error:
            tell(number, "error", what(error))
"""


@dataclass(frozen=True)
class Called:
    """What became of a call.

    `kind` is value (it returned `value`, as JSON has it: tuples are lists), error (it raised; `value` says
    what), or silent (the program ended before it, or hit a limit; `value` says so).
    """

    kind: Literal["value", "error", "silent"]
    value: Any

    def returned(self, expected: Any) -> bool:
        """Whether it returned exactly this; 1, 1.0 and true are three values."""
        return self.kind == "value" and canonical_json(self.value) == canonical_json(expected)


def call_function(
    source: str, name: str, calls: Sequence[Sequence[Any]], *, cpu_seconds: int = 2, seed: int = 0
) -> list[Called]:
    """Calls a function of a program with each list of arguments, all in one process.

    Args:
        source: the program that defines it.
        calls: arguments that JSON can hold.
        cpu_seconds: what all calls together may compute.
        seed: that of the module `random`, set anew before each call.

    Raises:
        SelfimpError: the sandbox could not be started, which says nothing about the program.
    """
    given = {
        "source": source,
        "name": name,
        "calls": [canonical_json(list(arguments)) for arguments in calls],
        "seed": seed,
    }
    limits = Limits(cpu_seconds=cpu_seconds, wall_seconds=cpu_seconds * _WALL_SECONDS_PER_CPU_SECOND)
    ended = machine_sandbox().run(_DRIVER, canonical_json(given), limits=limits)
    reports = read_reports(ended.stdout)
    silent = Called("silent", f"broke the limit of {ended.limit}" if ended.limit else "ended the program")
    return [reports.get(-1) or reports.get(number) or silent for number in range(len(calls))]


def read_reports(output: str) -> dict[int, Called]:
    """What the driver reported of each call, by number; -1: of the program itself.

    Lines that are no report are left out; a program can write what it likes there and gains nothing, since it
    does not know what is expected.
    """
    reports: dict[int, Called] = {}
    for line in output.splitlines():
        try:
            number, kind, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if type(number) is int and kind in ("value", "error"):
            reports[number] = Called(kind, value)
    return reports


def program_in(text: str) -> str | None:
    """The last fenced program of the text, or all of it where it is one without fences; else None."""
    fenced = _FENCED.findall(text)
    if fenced:
        return str(fenced[-1])
    return text if re.search(r"^(def|import|from)\b|\blambda\b", text, re.MULTILINE) else None
