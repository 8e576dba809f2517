import polars as pl
import pytest

from selfimp_dagster.lifecycle.selection.text import figures, normalised, numbers, tokens


def read(expression, text):
    return pl.select(expression(pl.lit(text))).item()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 12 + 45.5?", ["what", "is", "12", "+", "45.5", "?"]),
        ("It is 45.", ["it", "is", "45", "."]),
        ("x_1=[1,2]", ["x_", "1", "=", "[", "1", ",", "2", "]"]),
        ("\uff11\uff12 apples", ["12", "apples"]),
        ("\u4f60\u597dabc", ["\u4f60", "\u597d", "abc"]),
        ("", []),
    ],
)
def test_tokens(text, expected):
    assert read(tokens, text).to_list() == expected


def test_figures_are_numbers_and_operators_in_their_order():
    assert (
        read(figures, "12 \u2212 3.5 \u00d7 x\u00b2, then 7 \u00f7 8.")
        == "12 \u2212 3.5 \u00d7 \u00b2 7 \u00f7 8"
    )


def test_numbers_are_tokens():
    assert read(numbers, "\uff11\uff12 + 45.5 = 57.").to_list() == ["12", "45.5", "57"]


def test_normalised_text_differs_in_case_and_signs_only():
    assert read(normalised, " A\n\tb  e\u0301 ") == "A b \u00e9"
