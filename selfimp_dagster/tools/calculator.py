"""A calculator for what a policy writes: exact, bounded, and deaf to everything but arithmetic."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

MOST_CHARACTERS = 200
LARGEST = 10**30
"""Numbers beyond this one are refused: a policy that multiplies without end must not fill the memory."""

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_WRITTEN_OTHERWISE = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-", ",": None})
_EXPRESSION = re.compile(r"[-(]?\s*\d[\d\s.,()+*/\u00d7\u00f7\u2212-]*")


class CannotCalculate(ValueError):
    """Why an expression has no value, in words fit to be shown to a policy."""


def calculate(expression: str) -> Fraction:
    """The exact value of sums, differences, products and quotients of numbers, with brackets.

    Raises:
        CannotCalculate: it is too long, is anything else, divides by zero, or grows too large.
    """
    if len(expression) > MOST_CHARACTERS:
        raise CannotCalculate(f"longer than {MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.translate(_WRITTEN_OTHERWISE).strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise CannotCalculate("not an arithmetic expression") from None
    return _value(tree.body)


def calculated(expression: str) -> str:
    """What the calculator says to a policy: the value as it is written, or why there is none."""
    try:
        return written(calculate(expression))
    except CannotCalculate as error:
        return f"error: {error}"


def written(value: Fraction) -> str:
    """A value as people write it: an integer, else rounded to six digits behind the point."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def first_expression(text: str) -> str | None:
    """The first stretch of a text that is arithmetic with at least one operation; None if there is none."""
    for match in _EXPRESSION.finditer(text):
        candidate = match[0].strip().rstrip(".,(+-*/ ")
        if re.search(r"\d\s*\)*\s*[-+*/\u00d7\u00f7\u2212]", candidate):
            return candidate
    return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if abs(number) > LARGEST:
                raise CannotCalculate("a number too large")
            value = Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            one, other = _value(left), _value(right)
            if isinstance(op, ast.Div) and other == 0:
                raise CannotCalculate("division by zero")
            value = _OPERATIONS[type(op)](one, other)
        case _:
            raise CannotCalculate("only numbers, + - * / and brackets")
    if abs(value) > LARGEST:
        raise CannotCalculate("a number too large")
    return value
