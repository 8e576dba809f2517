"""Importance weights of a toy corpus, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.selection.dsir import hashed_ngrams, log_importance

_BUCKETS = 1_000_003


def test_ngrams_are_words_and_pairs_of_neighbours():
    (found,) = hashed_ngrams(["a b a"], _BUCKETS)
    assert len(found) == 5
    assert found[0] == found[2] != found[1]
    assert len(set(found.tolist())) == 4
    assert hashed_ngrams([""], _BUCKETS)[0].size == 0


def test_importance_weights_by_hand():
    rows = [np.array([0, 0, 1]), np.array([1])]  # all rows: bucket 0 in 2 of 4, bucket 1 in 2 of 4
    target = [np.array([0, 0, 0, 1])]
    weights = log_importance(rows, target, 2)
    more, less = math.log(0.75 / 0.5), math.log(0.25 / 0.5)
    assert weights == pytest.approx([2 * more + less, less], abs=1e-6)


def test_rows_are_drawn_as_if_from_the_target(corpus, judge):
    samples = [(f"w{n}", f"what is {n} plus {n}", f"the sum is {2 * n}") for n in range(20)]
    samples += [(f"x{n}", f"name colour {n}", f"perhaps some shade of blue {n}") for n in range(20)]
    rewards = {sample_id: float(sample_id.startswith("w")) for sample_id, _, _ in samples}
    context = corpus([*samples, ("y", "", "")], rewards=rewards)
    fates = judge("dsir", context, share=0.5)
    kept = [sample_id for sample_id, fate in fates.items() if fate["kept"]]
    assert len(kept) == 20
    assert all(sample_id.startswith("w") for sample_id in kept)
    assert min(fates[f"w{n}"]["score"] for n in range(20)) > max(fates[f"x{n}"]["score"] for n in range(20))
    assert (fates["y"]["kept"], fates["y"]["reason"]) == (False, "has no words")


def test_the_draw_follows_the_seed(corpus, judge):
    samples = [(f"s{n}", f"what is {n}", f"it is {n}") for n in range(30)]
    context = corpus(samples, rewards={sample_id: 1.0 for sample_id, _, _ in samples})

    def drawn(seed):
        fates = judge("dsir", replace(context, seed=seed))
        return [sample_id for sample_id, fate in fates.items() if fate["kept"]]

    assert drawn(0) == drawn(0) != drawn(1)


def test_without_a_target_the_reason_is_said(corpus, judge):
    context = corpus([("a", "q", "x")], rewards={"a": 0.0})
    with pytest.raises(SelfimpError, match="no sample has a reward answer of at least 1: there is no target"):
        judge("dsir", context)
    with pytest.raises(SelfimpError, match="no task of the corpus is of the skill poems"):
        judge("dsir", context, target={"skills": ["poems"]})
