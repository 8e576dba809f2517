"""Lengths of answers: what is left out shows, and one response that does not end changes nothing."""

from dataclasses import replace

import polars as pl
import pytest

LENGTHS = {"a": 12, "b": 12, "c": 11, "d": 10, "e": 12, "f": 30}


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, {"f"}),
        ({"outliers": 0.2}, {"a", "b", "c", "e"}),
        ({"outliers": 0.2, "share": 1.0}, {"a", "b", "e"}),
        ({"outliers": 0.2, "share": 0.8}, {"a", "b", "c", "d", "e"}),
    ],
)
def test_responses_are_held_against_the_longest_that_counts(corpus, judge, parameters, kept):
    rows = corpus([(id_, "p", "1" * length) for id_, length in LENGTHS.items()])
    fates = judge("length_filter", rows, **parameters)
    assert {id_ for id_, fate in fates.items() if fate["kept"]} == kept
    if parameters:
        assert fates["f"]["reason"] == "an outlier, longer than the longest of its kind that counts"


def test_levels_are_measured_apart(corpus, judge):
    context = corpus([("a", "p", "1" * 12), ("b", "q", "1" * 6)])
    assert not judge("length_filter", context)["b"]["kept"]
    levels = context.tasks.with_columns(difficulty=pl.Series([6.0, 3.0]))
    assert judge("length_filter", replace(context, tasks=levels))["b"]["kept"]
