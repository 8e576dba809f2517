"""Which responses are paired: best against worst, real against own, most votes against fewest."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_corpus import make_context, make_pool, pool_row, task

from selfimp_dagster.lifecycle.optimization.kto import labelled
from selfimp_dagster.lifecycle.optimization.pairs import (
    answer_and_own,
    best_and_worst,
    by_votes,
    pair_rows,
)
from selfimp_dagster.lifecycle.optimization.update import POOL
from selfimp_dagster.records import TASKS, TRAINING, frame


def judged(*rows: tuple[str, int, str, float]) -> pl.DataFrame:
    """Rows of (sample, task, fate, value)."""
    pool = frame([pool_row(sample, number, sample, fate=fate) for sample, number, fate, _ in rows], POOL)
    return pool.with_columns(pl.Series("value", [value for *_, value in rows]))


def ids(pairs: pl.DataFrame) -> list[tuple[str, str, float]]:
    return sorted(pairs.select("chosen_id", "rejected_id", "margin").iter_rows())


def test_the_best_is_paired_with_the_worst_and_the_second_best_with_the_second_worst() -> None:
    rows = judged(
        ("a", 1, "kept", 0.9), ("b", 1, "kept", 0.7), ("c", 1, "contrast", 0.2), ("d", 1, "kept", 0.4)
    )
    assert ids(best_and_worst(rows)) == [("a", "c", pytest.approx(0.7))]
    two = [("a", "c", pytest.approx(0.7)), ("b", "d", pytest.approx(0.3))]
    assert ids(best_and_worst(rows, per_task=5)) == two
    assert ids(best_and_worst(rows, per_task=5, margin=0.5)) == two[:1]


@pytest.mark.parametrize("fate", ["contrast", "sibling"])
def test_what_was_not_selected_is_never_the_better_side(fate: str) -> None:
    assert best_and_worst(judged(("a", 1, fate, 1.0), ("b", 1, "contrast", 0.0))).is_empty()
    rows = judged(("a", 1, fate, 1.0), ("b", 1, "kept", 0.5), ("c", 1, "contrast", 0.0))
    assert ids(best_and_worst(rows)) == [("b", "c", 0.5)]


def test_what_was_dropped_for_more_than_its_reward_is_never_the_worse_side() -> None:
    assert best_and_worst(judged(("a", 1, "kept", 1.0), ("b", 1, "sibling", 0.0))).is_empty()


def test_equal_rewards_and_other_tasks_make_no_pair() -> None:
    rows = judged(("a", 1, "kept", 1.0), ("b", 1, "kept", 1.0), ("c", 2, "contrast", 0.0))
    assert best_and_worst(rows).is_empty()


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["kept", "contrast", "sibling"]), st.integers(0, 4)),
        max_size=12,
    ),
    st.integers(1, 4),
    st.sampled_from([0.0, 2.0]),
)
def test_pairs_are_of_one_task_apart_and_share_no_row(
    given: list[tuple[int, str, int]], per_task: int, margin: float
) -> None:
    rows = judged(*((f"s{place}", number, fate, float(v)) for place, (number, fate, v) in enumerate(given)))
    pairs = best_and_worst(rows, per_task=per_task, margin=margin)
    by_id = {row["sample_id"]: row for row in rows.iter_rows(named=True)}
    used = [*pairs["chosen_id"], *pairs["rejected_id"]]
    assert len(used) == len(set(used))
    for chosen, rejected in pairs.select("chosen_id", "rejected_id").iter_rows():
        better, worse = by_id[chosen], by_id[rejected]
        assert better["task_id"] == worse["task_id"]
        assert better["value"] - worse["value"] >= max(margin, 1e-9)
        assert better["fate"] == "kept"
        assert worse["fate"] != "sibling"
    assert pairs.is_empty() or pairs.group_by("task_id").len()["len"].max() <= per_task  # type: ignore[operator]


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = judged(*((f"s{n}", n % 3, "kept", float(n % 2)) for n in range(12)))
    assert best_and_worst(rows, per_task=2).equals(best_and_worst(rows.reverse(), per_task=2))


def test_both_rows_of_a_pair_are_recorded() -> None:
    pairs = best_and_worst(judged(("a", 1, "kept", 1.0), ("b", 1, "contrast", 0.0)))
    rows = pair_rows(pairs, "dpo")
    assert rows.schema == TRAINING
    assert rows.select("sample_id", "role", "update", "weight", "origin_round").rows() == [
        ("a", "chosen", "dpo", 1.0, "tiny/0000"),
        ("b", "rejected", "dpo", 1.0, "tiny/0000"),
    ]
    assert rows["pair_id"].n_unique() == 1
    assert rows["pair_id"].null_count() == 0


def test_real_answers_play_against_own_responses_that_differ() -> None:
    context = make_context({1: ("0", "7", "5"), 2: ("7", "7")})
    pairs = answer_and_own(context.pool, context.tasks, per_task=2)
    assert pairs.select("task_id", "chosen_id", "chosen", "rejected").rows() == [
        ("t1", None, "7", response) for response in pairs["rejected"]
    ]
    assert sorted(pairs["rejected"]) == ["0", "5"]
    assert pair_rows(pairs, "spin").filter(role="chosen")["sample_id"].to_list() == [None, None]
    assert answer_and_own(context.pool, context.tasks).height == 1


def test_helped_and_foreign_responses_and_tasks_without_an_answer_do_not_play() -> None:
    tasks = frame([task(1), task(2) | {"answer": None}], TASKS)
    pool = frame([pool_row("a", 1, "0", own=False), pool_row("b", 2, "0")], POOL)
    assert answer_and_own(pool, tasks).is_empty()


def test_the_weight_of_a_pair_is_the_margin_of_its_votes() -> None:
    groups = {1: ("7", "7.0", "7", "0", "5"), 2: ("7", "7", "0", "0"), 3: ("7", "0", "5"), 4: ("7", "7", "7")}
    context = make_context(groups)
    pairs = by_votes(context.pool, context.tasks, threshold=0.5)
    # 7 and 7.0 are one answer: three of five votes against one of five. Task 2 is a draw, 3 has no majority.
    assert pairs.select("task_id", "weight", "margin").rows() == [
        ("t1", pytest.approx(0.4), pytest.approx(0.4))
    ]
    assert pairs["rejected"].item() in ("0", "5")
    assert by_votes(context.pool, context.tasks, threshold=0.7).is_empty()


def test_a_response_without_an_answer_has_no_votes() -> None:
    context = make_context({1: ("7", "7", "7", "no idea")})
    pairs = by_votes(context.pool, context.tasks, threshold=0.5)
    assert pairs.select("chosen", "rejected", "weight").rows() == [("7", "no idea", 0.75)]


def test_labels_of_kto() -> None:
    rows = judged(
        ("a", 1, "kept", 1.0),
        ("b", 1, "kept", 0.5),
        ("c", 1, "contrast", 0.0),
        ("d", 1, "contrast", 1.0),  # good, and not selected
        ("e", 1, "sibling", 0.0),
    )
    assert labelled(rows, 1.0).select("sample_id", "label").rows() == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


def test_a_pool_names_the_fate_of_its_rows() -> None:
    assert make_pool({1: ("7", "0", "7", "0")})["fate"].to_list() == [
        "kept",
        "contrast",
        "sibling",
        "sibling",
    ]
