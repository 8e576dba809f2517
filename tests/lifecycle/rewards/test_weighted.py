"""Composed rewards follow their formula, and what says nothing moves nothing."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import judged, reward, reward_context

from selfimp_dagster.records import REWARDS, frame


def _rewards(*rows: tuple[str, str, float | None, float]) -> pl.DataFrame:
    """Judgements of s0 as (reward, kind, value, confidence)."""
    names = ("reward", "kind", "value", "confidence")
    return frame(({"sample_id": "s0", **dict(zip(names, row, strict=True))} for row in rows), REWARDS)


def _composed(rewards: pl.DataFrame, **parts: float) -> dict[str, object]:
    context = reward_context({"1+1": ["2"]}, rewards=rewards)
    return judged(reward("weighted", parts=parts), context)["s0"]


def test_the_value_is_the_mean_by_weight_and_confidence() -> None:
    rewards = _rewards(("answer", "V", 1.0, 1.0), ("judge", "M", 0.4, 0.5), ("short", "H", 0.0, 1.0))
    row = _composed(rewards, answer=2.0, judge=1.0)
    assert row["value"] == pytest.approx((2 * 1 * 1.0 + 1 * 0.5 * 0.4) / (2 * 1 + 1 * 0.5))
    assert row["confidence"] == pytest.approx(2.5 / 3)
    assert row["kind"] == "M"
    told = json.loads(str(row["evidence"]))
    assert told["silent"] == []
    assert told["parts"]["answer"] == {"value": 1.0, "share": pytest.approx(0.8)}


@pytest.mark.parametrize(
    "silent", [("judge", "M", None, 0.0), ("judge", "M", 0.0, 0.0), ("judge", "M", float("nan"), 1.0)]
)
def test_a_part_that_says_nothing_costs_confidence_and_moves_nothing(
    silent: tuple[str, str, float | None, float],
) -> None:
    row = _composed(_rewards(("answer", "V", 1.0, 1.0), silent), answer=3.0, judge=1.0)
    assert (row["value"], row["confidence"], row["kind"]) == (1.0, 0.75, "V")
    assert json.loads(str(row["evidence"]))["silent"] == ["judge"]


def test_a_part_without_a_row_is_silent_too() -> None:
    row = _composed(_rewards(("answer", "V", 0.0, 1.0)), answer=1.0, judge=1.0)
    assert (row["value"], row["confidence"]) == (0.0, 0.5)


def test_without_any_part_there_is_no_value() -> None:
    for rewards in (_rewards(("judge", "M", None, 0.0)), REWARDS.to_frame()):
        row = _composed(rewards, judge=1.0)
        assert (row["value"], row["confidence"], row["kind"]) == (None, 0.0, "M")


def test_parts_of_one_kind_make_a_reward_of_that_kind() -> None:
    rewards = _rewards(("answer", "V", 1.0, 1.0), ("short", "H", 1.0, 1.0))
    assert _composed(rewards, answer=1.0)["kind"] == "V"
    assert _composed(rewards, short=1.0)["kind"] == "H"
    assert _composed(rewards, answer=1.0, short=1.0)["kind"] == "H"


@pytest.mark.parametrize("sure", [1.0, 5e-324])
def test_however_little_sure_the_only_part_is_its_value_is_the_value(sure: float) -> None:
    row = _composed(_rewards(("judge", "M", 0.5, sure)), judge=1.0)
    assert row["value"] == 0.5


def test_parts_that_all_give_the_full_value_give_it_together() -> None:
    weights = {"a": 0.1, "b": 0.2, "c": 0.7, "d": 1.1}
    assert _composed(_rewards(*((name, "V", 1.0, 1.0) for name in weights)), **weights)["value"] == 1.0


_PART = st.tuples(st.floats(0.1, 5), st.none() | st.floats(0, 1), st.floats(0, 1))


@given(st.lists(_PART, min_size=1, max_size=4))
def test_the_value_lies_between_those_of_its_parts(parts: list[tuple[float, float | None, float]]) -> None:
    named = {f"r{number}": part for number, part in enumerate(parts)}
    rewards = _rewards(*((name, "H", value, sure) for name, (_, value, sure) in named.items()))
    row = _composed(rewards, **{name: weight for name, (weight, _, _) in named.items()})
    heard = [value for weight, value, sure in parts if value is not None and weight * sure > 0]
    assert 0 <= float(row["confidence"]) <= 1 + 1e-9  # type: ignore[arg-type]
    if heard:
        assert min(heard) - 1e-9 <= float(row["value"]) <= max(heard) + 1e-9  # type: ignore[arg-type]
    else:
        assert row["value"] is None
