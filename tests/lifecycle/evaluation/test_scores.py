from collections.abc import Callable

import polars as pl
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.scores import (
    SKILL_SCORES,
    check_scores,
    item_weights,
    pair_arms,
    paired_counts,
    policy_of,
    skill_scores,
    suite_scores,
)
from selfimp_dagster.lifecycle.evaluation.statistics import wilson

MakeRows = Callable[..., pl.DataFrame]


def test_items_share_the_weight_of_their_skill() -> None:
    weights = item_weights(["sums", "sums", "gcd"], {"sums": 3, "gcd": 1, "not measured": 5})
    assert weights.tolist() == pytest.approx([0.375, 0.375, 0.25])


def test_a_skill_without_weight_is_refused() -> None:
    with pytest.raises(SelfimpError, match="gcd"):
        item_weights(["sums", "gcd"], {"sums": 1, "gcd": 0})


def test_suites_are_scored_on_the_mix_and_guards_evenly(make_rows: MakeRows) -> None:
    rows = pl.concat(
        [
            make_rows([1] * 5 + [0] * 5, [1] * 10, skill="sums"),
            make_rows([0] * 30, [0] * 30, skill="gcd"),
            make_rows([1] * 4, [0] * 4, suite="guard", skill="letters"),
            make_rows([0] * 2, [1] * 2, suite="guard", skill="words"),
        ]
    )
    scores = suite_scores(rows, {"sums": 3, "gcd": 1})
    assert scores["anchor"]["incumbent"].value == pytest.approx(0.375)
    assert scores["anchor"]["candidate"].value == pytest.approx(0.75)
    assert scores["guard"]["candidate"].value == pytest.approx(0.5)
    assert scores["guard"]["candidate"].n == 6


def test_skills_are_scored_with_wilson_intervals(make_rows: MakeRows) -> None:
    table = skill_scores(make_rows([1] * 8 + [0] * 2, [0] * 10))
    assert table.schema == SKILL_SCORES
    row = table.filter(pl.col("arm") == "incumbent").row(0, named=True)
    assert (row["accuracy"], row["n"]) == (0.8, 10)
    assert (row["low"], row["high"]) == pytest.approx(wilson(8, 10))


def test_arms_are_paired_by_item(make_rows: MakeRows) -> None:
    rows = make_rows([0, 0, 1, 1], [1, 1, 0, 1]).sample(fraction=1, shuffle=True, seed=3)
    pairs = pair_arms(rows)
    assert pairs["item_id"].is_sorted()
    assert paired_counts(pairs) == (2, 1, 1)
    assert paired_counts(pair_arms(rows, before="candidate", after="incumbent")) == (1, 2, 1)


def test_arms_with_other_items_are_refused(make_rows: MakeRows) -> None:
    rows = make_rows([0, 1, 1], [1, 1, 1])
    missing = rows.filter((pl.col("arm") == "incumbent") | (pl.col("item_id") != "anchor-sums-0001"))
    with pytest.raises(SelfimpError, match=r"1 of 3 items .*anchor/anchor-sums-0001"):
        pair_arms(missing)
    with pytest.raises(SelfimpError, match="only one of the arms"):
        pair_arms(rows.clear())


def test_arms_under_other_harnesses_are_refused(make_rows: MakeRows) -> None:
    one = (pl.col("arm") == "candidate") & (pl.col("item_id") == "anchor-sums-0001")
    rows = make_rows([0, 1, 1], [1, 1, 1])
    for other in (pl.lit("other"), pl.lit(None, dtype=pl.String)):
        changed = rows.with_columns(pl.when(one).then(other).otherwise("fingerprint").alias("fingerprint"))
        with pytest.raises(SelfimpError, match=r"1 of 3 items .*fingerprints"):
            pair_arms(changed)


def test_an_item_of_two_skills_is_refused(make_rows: MakeRows) -> None:
    rows = make_rows([0, 1], [1, 1]).with_columns(
        pl.when(pl.col("arm") == "candidate").then(pl.lit("gcd")).otherwise("skill").alias("skill")
    )
    with pytest.raises(SelfimpError, match="one skill"):
        pair_arms(rows)


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), None])
def test_scores_beyond_a_share_are_refused(make_rows: MakeRows, score: float | None) -> None:
    rows = make_rows([0, 1], [1, 1]).with_columns(pl.lit(score, dtype=pl.Float64).alias("score"))
    with pytest.raises(SelfimpError, match="4 scores"):
        check_scores(rows)


def test_repeated_items_are_refused(make_rows: MakeRows) -> None:
    rows = make_rows([0, 1], [1, 1])
    with pytest.raises(SelfimpError, match="2 rows repeat"):
        check_scores(pl.concat([rows, rows.head(2)]))


def test_an_arm_of_two_policies_is_refused(make_rows: MakeRows) -> None:
    rows = make_rows([0, 1], [1, 1])
    assert policy_of(rows, "candidate") == "weights of the candidate"
    with pytest.raises(SelfimpError, match="2 policies"):
        policy_of(rows.with_columns(pl.lit("candidate").alias("arm")), "candidate")
