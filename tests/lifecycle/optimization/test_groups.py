"""Advantages by hand: GRPO, Dr. GRPO, RLOO, win rates and RESTRAIN."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_corpus import make_context, pool_row

from selfimp_dagster.lifecycle.optimization.groups import (
    bell,
    group_rows,
    grpo_advantages,
    restrain_advantages,
    rloo_advantages,
    win_rates,
)
from selfimp_dagster.lifecycle.optimization.update import POOL
from selfimp_dagster.lifecycle.optimization.votes import votes
from selfimp_dagster.records import frame


def group(*values: float, task: int = 1) -> pl.DataFrame:
    rows = frame([pool_row(f"s{task}-{n}", task, str(n)) for n in range(len(values))], POOL)
    return rows.with_columns(pl.Series("value", values, dtype=pl.Float64))


def test_grpo_advantage_over_the_deviation_of_the_group() -> None:
    # Mean 1/4, deviation of a sample sqrt((9/16 + 3/16) / 3) = 1/2, and 0.0001 is added to it.
    found = grpo_advantages(group(1, 0, 0, 0), scale="group")["advantage"].to_list()
    assert found == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])


def test_dr_grpo_advantage_is_not_scaled() -> None:
    found = grpo_advantages(group(1, 0, 0, 0), scale="none")["advantage"].to_list()
    assert found == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_each_group_has_its_own_mean() -> None:
    both = pl.concat([group(1, 0, task=1), group(5, 3, task=2)])
    assert grpo_advantages(both, scale="none")["advantage"].to_list() == [0.5, -0.5, 1.0, -1.0]


def test_a_group_that_agrees_has_no_advantage() -> None:
    assert grpo_advantages(group(1, 1, 1), scale="group")["advantage"].to_list() == [0, 0, 0]


def test_rloo_advantage_is_over_the_mean_of_the_others() -> None:
    found = rloo_advantages(group(1, 0.5, 0))["advantage"].to_list()
    assert found == pytest.approx([1 - 0.25, 0.5 - 0.5, 0 - 0.75])


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_rloo_advantages_are_those_of_dr_grpo_stretched(values: list[float]) -> None:
    n = len(values)
    rloo = rloo_advantages(group(*values))["advantage"]
    plain = grpo_advantages(group(*values), scale="none")["advantage"]
    assert rloo.to_list() == pytest.approx([a * n / (n - 1) for a in plain], abs=1e-9)
    assert plain.sum() == pytest.approx(0, abs=1e-9)


def test_win_rates_count_a_draw_as_half() -> None:
    # 2 beats two, draws with the other 2 and itself; 0 draws with itself alone.
    assert win_rates(group(2, 2, 1, 0))["win_rate"].to_list() == [0.75, 0.75, 0.375, 0.125]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_win_rates_are_one_half_on_average(values: list[int]) -> None:
    rates = win_rates(group(*map(float, values)))["win_rate"]
    expected = [
        sum(1.0 if v > other else 0.5 if v == other else 0.0 for other in values) / len(values)
        for v in values
    ]
    assert rates.to_list() == pytest.approx(expected)
    assert rates.mean() == pytest.approx(0.5)


def test_a_group_is_all_that_the_policy_drew_to_a_selected_task() -> None:
    rows = [
        pool_row("kept", 1, "7"),
        pool_row("repeated", 1, "7", fate="sibling"),
        pool_row("wrong", 1, "0", fate="contrast"),
        pool_row("helped", 1, "7", own=False),
        pool_row("not selected", 2, "7", fate="contrast"),
        pool_row("not selected either", 2, "0", fate="sibling"),
        pool_row("alone", 3, "7"),
    ]
    found = group_rows(frame(rows, POOL))
    assert found["sample_id"].to_list() == ["kept", "repeated", "wrong"]


def restrained(
    *responses: str, least_votes: int = 0, width: float = 0.5, penalty: float = 1.0
) -> list[float]:
    context = make_context({1: responses})
    counted = votes(context.pool, context.tasks)
    rows = restrain_advantages(counted, centre=1.0, width=width, least_votes=least_votes, penalty=penalty)
    by_id = dict(rows.select("sample_id", "advantage").iter_rows())
    return [by_id[f"s1-{n}"] for n in range(len(responses))]


def test_restrain_takes_every_answer_for_a_label_by_its_votes() -> None:
    # Of four votes 7 has two, 0 and 5 one each: g(1/2) = exp(-1/2), g(1/4) = exp(-9/8).
    g_half, g_quarter = math.exp(-0.5), math.exp(-1.125)
    w_half, w_quarter = (g / (g_half + 2 * g_quarter) for g in (g_half, g_quarter))
    hit_half, miss_half = 0.5 / (math.sqrt(1 / 3) + 1e-4), -0.5 / (math.sqrt(1 / 3) + 1e-4)
    hit_quarter, miss_quarter = 0.75 / 0.5001, -0.25 / 0.5001
    seven = w_half * hit_half + 2 * w_quarter * miss_quarter
    other = w_half * miss_half + w_quarter * (hit_quarter + miss_quarter)
    expected = [g_half * a for a in (seven, seven, other, other)]  # the task has the weight g(1/2)
    assert restrained("7", "7", "0", "5") == pytest.approx(expected)


def test_restrain_pushes_away_from_groups_that_do_not_agree() -> None:
    assert restrained("7", "0", "5", "6", least_votes=2, penalty=0.7) == pytest.approx(
        [-0.7 * bell(0.25, 1.0, 0.5)] * 4
    )
    assert restrained("7", "7", "5", "6", least_votes=2)[0] > 0
    assert restrained("7", "7", "5", "6", least_votes=3) == pytest.approx([-bell(0.5, 1.0, 0.5)] * 4)


def test_a_narrow_bell_is_majority_voting() -> None:
    found = restrained("7", "7", "0", "5", width=0.1)
    majority = grpo_advantages(group(1, 1, 0, 0), scale="group")["advantage"]
    assert [a / bell(0.5, 1.0, 0.1) for a in found] == pytest.approx(majority.to_list(), abs=1e-3)


def test_a_response_without_an_answer_is_no_label() -> None:
    found = restrained("7", "7", "no idea", "no idea")
    plain = grpo_advantages(group(1, 1, 0, 0), scale="group")["advantage"]
    assert found == pytest.approx([bell(0.5, 1.0, 0.5) * a for a in plain])


def test_a_group_without_any_answer_is_pushed_away_from() -> None:
    found = restrained("no", "idea", least_votes=1)
    assert found == pytest.approx([-bell(0.0, 1.0, 0.5)] * 2)


def test_no_groups_have_no_advantages() -> None:
    context = make_context({1: ("7", "0")})
    none = votes(context.pool, context.tasks).clear()
    assert restrain_advantages(none, centre=1, width=1, least_votes=2, penalty=1).is_empty()
