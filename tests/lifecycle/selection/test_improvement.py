"""Corrections against what they correct, and rows against real answers."""

import math

import polars as pl
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.selection import SelectionStep
from selfimp_dagster.lifecycle.selection.distribution_shift import ds_weight

_VALUES = {
    "a": 0.0,
    "a fixed": 1.0,
    "b": 1.0,
    "b kept": 1.0,
    "b spoiled": 0.0,
    "c": 0.2,
    "c better": 0.6,
    "d": None,
}
_PARENTS = {"a fixed": "a", "b kept": "b", "b spoiled": "b", "c better": "c", "d": "a"}


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, ["a fixed"]),
        ({"than_parent": "no worse"}, ["a fixed", "b kept"]),
        ({"minimum": 0.5}, ["a fixed", "c better"]),
    ],
)
def test_keeps_what_is_better_than_what_it_corrects(corpus, parameters, kept):
    context = corpus([(id_, "q", id_) for id_ in _VALUES], rewards=_VALUES)
    parents = pl.Series("parent_sample_id", [_PARENTS.get(id_) for id_ in _VALUES], dtype=pl.String)
    step = SelectionStep.of("improvement", **parameters)
    fates = step.method.function(context.samples.with_columns(parents), context, step.parameters)
    assert fates.filter("kept")["sample_id"].to_list() == kept
    scores = dict(fates.select("sample_id", "score").iter_rows())
    assert scores == {
        "a": None,
        "a fixed": 1.0,
        "b": None,
        "b kept": 0.0,
        "b spoiled": -1.0,
        "c": None,
        "c better": pytest.approx(0.4),
        "d": None,
    }


def test_keeps_the_rows_whose_loss_is_nearest_to_that_of_real_answers(corpus, judge, scripted):
    losses = {"near": 0.5, "sure": 0.1, "unsure": 2.0, "real": 0.4}
    said = {("q", text): [-loss] for text, loss in losses.items()}
    rows = [("near", "q", "near"), ("sure", "q", "sure"), ("unsure", "q", "unsure")]
    context = corpus(rows, rewards={"near": 1.0}, models=scripted(logprobs=said))
    context = context_with_answer(context, "real")
    fates = judge("distribution_shift", context, share=0.67)
    assert {id_: fate["score"] for id_, fate in fates.items()} == {
        "near": pytest.approx(0.5 / 0.4),
        "sure": pytest.approx(0.4 / 0.1),
        "unsure": pytest.approx(2.0 / 0.4),
    }
    assert [id_ for id_, fate in fates.items() if fate["kept"]] == ["near", "sure"]


def test_real_answers_are_supervision_and_must_be_asked_for(corpus, judge, scripted):
    context = context_with_answer(corpus([("a", "q", "1")], models=scripted()), "1")
    with pytest.raises(SelfimpError, match="no sample has the reward 'answer'"):
        judge("distribution_shift", context)


def test_without_answers_there_is_nothing_real(corpus, judge, scripted):
    context = context_with_answer(corpus([("a", "q", "1")], rewards={"a": 1.0}, models=scripted()), None)
    with pytest.raises(SelfimpError, match="no task of the corpus has an answer"):
        judge("distribution_shift", context)


def test_the_weight_is_a_ratio_of_at_least_one():
    assert ds_weight(0.5, 2.0) == ds_weight(2.0, 0.5) == 4.0
    assert ds_weight(math.pi, math.pi) == 1.0
    assert ds_weight(0.0, 1.0) is None


def context_with_answer(context, answer):
    from dataclasses import replace

    return replace(context, tasks=context.tasks.with_columns(answer=pl.lit(answer, pl.String)))
