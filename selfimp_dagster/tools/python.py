"""Python for what a policy writes: run in the sandbox, and answered in text."""

import ast

from selfimp_dagster.sandbox.machine import machine_sandbox
from selfimp_dagster.sandbox.run import Limits

MOST_CHARACTERS = 2000
"""Of a program; and of what it printed, a tenth."""

_LIMITS = Limits(cpu_seconds=2, wall_seconds=10)


def executed(program: str) -> str:
    """What the tool says to a policy: what the program printed, or the value of its last expression.

    An error, a limit that it hit, or that it said nothing begins with `error:`.

    Raises:
        SelfimpError: no sandbox holds here, or it could not be started; that says nothing about the program.
    """
    if len(program) > MOST_CHARACTERS:
        return f"error: longer than {MOST_CHARACTERS} characters"
    try:
        tree = ast.parse(program.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"error: {type(error).__name__}: no Python"
    if tree.body and isinstance(last := tree.body[-1], ast.Expr) and not _prints(last.value):
        tree.body[-1] = ast.copy_location(ast.Expr(_printed(last.value)), last)
        program = ast.unparse(ast.fix_missing_locations(tree))
    ended = machine_sandbox().run(program, limits=_LIMITS)
    if ended.limit is not None:
        return f"error: broke the limit of {ended.limit}"
    if ended.status != 0:
        return f"error: {_cut(ended.stderr.strip().rpartition(chr(10))[2] or 'it failed')}"
    return _cut(ended.stdout.strip()) or "error: it printed nothing"


def _prints(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"


def _printed(value: ast.expr) -> ast.Call:
    return ast.Call(ast.Name("print", ast.Load()), [value], [])


def _cut(text: str) -> str:
    most = MOST_CHARACTERS // 10
    return text if len(text) <= most else text[: most - 1] + "…"
