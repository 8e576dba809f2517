import json
import math
from dataclasses import replace

import polars as pl
import pytest

from selfimp_dagster.errors import SelfimpError


def test_keeps_the_samples_at_or_above_the_minimum(corpus, judge):
    context = corpus(
        [("a", "1 + 1 =", "2"), ("b", "1 + 1 =", "3"), ("c", "1 + 1 =", "two"), ("d", "1 + 1 =", "")],
        rewards={"a": 1.0, "b": 0.0, "c": 0.5},
    )
    fates = judge("verified", context)
    assert {s: fate["kept"] for s, fate in fates.items()} == {"a": True, "b": False, "c": False, "d": False}
    assert {s: fate["score"] for s, fate in fates.items()} == {"a": 1.0, "b": 0.0, "c": 0.5, "d": None}
    assert json.loads(fates["b"]["evidence"]) == {
        "reward": "answer",
        "kind": "V",
        "value": 0.0,
        "confidence": 1.0,
        "evidence": "judged b",
    }
    assert "no answer reward" in fates["d"]["reason"]
    assert judge("verified", context, minimum=0.5)["c"]["kept"]


@pytest.mark.parametrize("value", [math.nan, None])
def test_a_reward_that_is_not_a_number_keeps_nothing(corpus, judge, value):
    fate = judge("verified", corpus([("a", "1 + 1 =", "2")], rewards={"a": value}))["a"]
    assert not fate["kept"]
    assert fate["score"] is None


def test_a_reward_that_no_sample_has_is_refused_by_name(corpus, judge):
    with pytest.raises(SelfimpError, match="no sample has the reward 'vote'"):
        judge("verified", corpus([("a", "1 + 1 =", "2")], rewards={"a": 1.0}), reward="vote")


def test_finished_drops_what_was_cut_off(corpus, judge):
    context = corpus([("a", "1 + 1 =", "2"), ("b", "1 + 1 =", "it is")], rewards={"a": 1.0})
    cut_off = context.samples.with_columns(
        finish_reason=pl.when(pl.col("sample_id") == "b").then(pl.lit("length")).otherwise(pl.lit("stop"))
    )
    fates = judge("finished", replace(context, samples=cut_off))
    assert {sample: fate["kept"] for sample, fate in fates.items()} == {"a": True, "b": False}
    assert "cut off" in fates["b"]["reason"]
