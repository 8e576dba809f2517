"""Tasks with a program: what it returns, what it was given, what it is, or what it accepts.

The first three are those of Zhao et al. (arXiv:2505.03335): a program defines a function `f` without chance.
The last is the Code-as-Task of Zhou et al. (arXiv:2506.01716), whose function `verify` judges answers. What a
program is given and what it returns is written as Python literals that JSON can hold. Everything runs in the
sandbox.
"""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from selfimp_dagster.records import canonical_json
from selfimp_dagster.sandbox.functions import Called, call_function, program_in

FUNCTION = "f"
MOST_CHARACTERS = 2000
"""Of a program, of its arguments and of what it returns."""

DEDUCTION, ABDUCTION, INDUCTION = "deduction", "abduction", "induction"
"""Names of the verifiers: the response has to give the output, an input, or the program."""


CODE_AS_TASK = "code_as_task"
"""Name of the verifier of tasks that come with the program that judges their answers."""

CHECK = "verify"
"""The function of such a program: it takes an answer, a text, and says whether that is right."""

PROGRAM_VERIFIERS = frozenset({DEDUCTION, ABDUCTION, INDUCTION, CODE_AS_TASK})


class NotRunnable(Exception):
    """What a program did instead of returning the same value twice. `repeats`: it failed in the same way."""

    def __init__(self, what: str, *, repeats: bool = True) -> None:
        super().__init__(what)
        self.repeats = repeats


def arguments_in(text: str) -> list[Any] | None:
    """Comma-separated literals, as they stand between the brackets of a call, as a list; None if not that.

    A call of `f` and marks of code around them are taken off.
    """
    bare = text.strip().strip("`").strip()
    if (call := re.fullmatch(rf"{FUNCTION}\s*\((.*)\)", bare, re.DOTALL)) is not None:
        bare = call[1].strip().rstrip(",")
    found = _literal(f"[{bare}]")
    return found[0] if found and isinstance(found[0], list) and found[0] else None


def value_in(text: str) -> tuple[Any] | None:
    """The one literal that a text is, in a tuple, as JSON has it; None if it is none."""
    return _literal(text.strip().strip("`").strip())


def outputs_of(program: str, inputs: Sequence[Sequence[Any]]) -> list[Any]:
    """What the program returns for each list of arguments.

    Raises:
        NotRunnable: it is too long, or failed, hung or ended itself on one of them; or it did not return the
            same when it was run again with other random numbers.
        SelfimpError: the sandbox could not be started.
    """
    if len(program) > MOST_CHARACTERS:
        raise NotRunnable(f"longer than {MOST_CHARACTERS} characters")
    first = call_function(program, FUNCTION, inputs)
    for called in first:
        if called.kind != "value":
            raise NotRunnable(str(called.value))
        if len(canonical_json(called.value)) > MOST_CHARACTERS:
            raise NotRunnable("it returned too much")
        if _literal(repr(called.value)) is None:
            raise NotRunnable("it returned what cannot be written as a literal")
    again = call_function(program, FUNCTION, inputs, seed=1)
    if any(not other.returned(called.value) for called, other in zip(first, again, strict=True)):
        raise NotRunnable("it returned something else when it was run again", repeats=False)
    return [called.value for called in first]


def verdicts_of(program: str, answers: Sequence[str]) -> list[bool]:
    """What the function `verify` of a program says of each answer.

    Raises:
        NotRunnable: it is too long, or failed, hung or ended itself on one of them, said something that is
            neither true nor false, or something else when it was run again with other random numbers.
        SelfimpError: the sandbox could not be started.
    """
    if len(program) > MOST_CHARACTERS:
        raise NotRunnable(f"longer than {MOST_CHARACTERS} characters")
    first, again = (call_function(program, CHECK, [[text] for text in answers], seed=seed) for seed in (0, 1))
    for called in first:
        if called.kind != "value":
            raise NotRunnable(str(called.value))
        if not isinstance(called.value, bool):
            raise NotRunnable(f"{CHECK} returned {called.value!r:.40}, which is no verdict")
    if any(not other.returned(called.value) for called, other in zip(first, again, strict=True)):
        raise NotRunnable("it said something else when it was run again", repeats=False)
    return [called.value for called in first]


def judge_program_task(verifier: str, entry: str, response: str) -> tuple[bool, str | None, str]:
    """Whether a response is right, the answer in it, and why.

    Args:
        entry: JSON of the task: `program`, `arguments` and `output`; for an induction `tests`, pairs of
            arguments and output that the response was not shown; for a Code-as-Task `program` alone.

    Raises:
        SelfimpError: the sandbox could not be started.
    """
    given = json.loads(entry)
    if verifier == INDUCTION:
        source = program_in(response)
        if source is None:
            return False, None, "no program in the response"
        called = call_function(source, FUNCTION, [arguments for arguments, _ in given["tests"]])
        return _passed(called, [output for _, output in given["tests"]], source)
    answer = _last_answer(response)
    if verifier == CODE_AS_TASK:
        return _passed(call_function(given["program"], CHECK, [[answer]]), [True], answer)
    if verifier == DEDUCTION:
        said = value_in(answer)
        if said is None:
            return False, answer, "no literal"
        right = canonical_json(said[0]) == canonical_json(given["output"])
        return right, answer, "equal" if right else "not equal"
    arguments = arguments_in(answer)
    if arguments is None:
        return False, answer, "no literals"
    return _passed(call_function(given["program"], FUNCTION, [arguments]), [given["output"]], answer)


def well_formed(verifier: str, response: str) -> bool:
    """Whether a response holds an answer of the form that such a task asks for, right or wrong."""
    if verifier == INDUCTION:
        return program_in(response) is not None
    answer = _last_answer(response)
    if verifier == CODE_AS_TASK:
        return bool(answer)
    return (value_in(answer) if verifier == DEDUCTION else arguments_in(answer)) is not None


def written(arguments: Sequence[Any]) -> str:
    """Arguments as they stand between the brackets of a call."""
    return ", ".join(repr(argument) for argument in arguments)


def _passed(called: Sequence[Called], expected: Sequence[Any], answer: str) -> tuple[bool, str, str]:
    failed = [one for one, output in zip(called, expected, strict=True) if not one.returned(output)]
    told = "returned something else" if not failed or failed[0].kind == "value" else str(failed[0].value)
    if not failed:
        return True, answer, f"passed {len(called)} of {len(called)}"
    return False, answer, f"passed {len(called) - len(failed)} of {len(called)}: {told}"


def _last_answer(response: str) -> str:
    """What stands in the last fence, or behind the last lead-in, or on the last line."""
    if fenced := re.findall(r"```[a-z]*[ \t]*\n(.*?)```", response, re.DOTALL):
        return str(fenced[-1]).strip()
    last = response.strip().rpartition("\n")[2].strip("* ")
    return re.sub(r"^(?:the\s+)?(?:answer|output|input)(?:\s+is)?\s*[:=]?\s*", "", last, flags=re.IGNORECASE)


def _literal(text: str) -> tuple[Any] | None:
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        return (json.loads(canonical_json(ast.literal_eval(text))),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
