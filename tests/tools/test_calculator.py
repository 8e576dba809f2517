"""What the calculator takes, and what it refuses without ever failing otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.tools.calculator import CannotCalculate, calculate, calculated, first_expression


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 + 4", "7"),
        ("3 * (4 + 5) - 1", "26"),
        ("-2 - -3", "1"),
        ("1,234 + 1", "1235"),
        ("7 / 2", "3.5"),
        ("1 / 3", "0.333333"),
        ("0.1 + 0.2", "0.3"),
        ("6 \u00d7 7", "42"),
        ("9 \u00f7 3 \u2212 1", "2"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert calculated(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9 ** 9 ** 9", "only numbers"),
        ("__import__('os')", "only numbers"),
        ("1 / 0", "division by zero"),
        ("True + 1", "only numbers"),
        ("1e300 * 1e300", "too large"),
        ("9" * 40, "too large"),
        ("1 +", "not an arithmetic"),
        ("", "not an arithmetic"),
        ("(" * 150, "not an arithmetic"),
        ("1+" * 150 + "1", "longer than"),
        ("1 + 2j", "only numbers"),
    ],
)
def test_refusals(expression: str, why: str) -> None:
    assert calculated(expression).startswith("error: ")
    with pytest.raises(CannotCalculate, match=why):
        calculate(expression)


@given(st.text(max_size=60))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    calculated(text)
    expression = first_expression(text)
    assert expression is None or expression in text


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("The expression is 5 * 6.", "5 * 6"),
        ("3+4=7", "3+4"),
        ("I have 3 apples and (2 + 2) * 5 pears", "(2 + 2) * 5"),
        ("there are 12 of them", None),
        ("", None),
    ],
)
def test_the_first_expression_of_a_text(text: str, expression: str | None) -> None:
    assert first_expression(text) == expression
