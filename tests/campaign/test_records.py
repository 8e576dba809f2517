"""Ids say what a row says, and tables fit their schemas."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import (
    REWARDS,
    check_schema,
    content_hash,
    content_id,
    derive_seed,
    frame,
    sample_id,
    task_id,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
_MESSAGES = [{"role": "user", "content": "learn 100"}]


def _turned_round(value: Any) -> Any:
    """The same value with every dict's keys in the opposite order."""
    if isinstance(value, dict):
        return {key: _turned_round(value[key]) for key in reversed(value)}
    return [_turned_round(item) for item in value] if isinstance(value, list) else value


@given(_JSON)
def test_the_order_of_keys_does_not_change_a_hash(value: Any) -> None:
    assert content_hash(value) == content_hash(_turned_round(value))


@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.text(max_size=6), max_size=4))
def test_different_parts_have_different_ids(one: list[str], other: list[str]) -> None:
    assert (content_id(*one) == content_id(*other)) == (one == other)


def test_an_id_is_the_same_on_every_machine() -> None:
    assert content_id("task", "sums", "1 + 1", "2") == "086656ac7e591bc7"
    assert task_id("sums", "1 + 1", "2") == content_id("task", "sums", "1 + 1", "2")


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "other"},
        {"policy_hash": "other"},
        {"messages": [{"role": "user", "content": "learn 101"}]},
        {"sampling": {"temperature": 0.5, "max_new_tokens": 4}},
        {"seed": 8},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_everything_a_response_depends_on_is_in_its_id(changed: dict[str, Any]) -> None:
    asked: dict[str, Any] = {
        "task": "task",
        "policy_hash": "weights",
        "messages": _MESSAGES,
        "sampling": {"temperature": 1.0, "max_new_tokens": 4},
        "seed": 7,
    }
    assert sample_id(**asked) == sample_id(**{**asked, "sampling": {"max_new_tokens": 4, "temperature": 1.0}})
    assert sample_id(**asked) != sample_id(**{**asked, **changed})


@given(st.lists(st.integers() | st.text(max_size=5), max_size=3))
def test_seeds_fit_into_63_bits_and_depend_on_nothing_else(parts: list[Any]) -> None:
    assert derive_seed(*parts) == derive_seed(*parts)
    assert 0 <= derive_seed(*parts) < 2**63


def test_a_table_of_another_shape_is_refused_with_every_column_that_is_wrong() -> None:
    table = (
        REWARDS.to_frame().drop("kind").with_columns(pl.lit(1).alias("extra"), pl.col("value").cast(pl.Int64))
    )
    with pytest.raises(SelfimpError) as caught:
        check_schema(table, REWARDS, "rewards.parquet")
    assert caught.value.where == "rewards.parquet"
    assert (
        caught.value.what
        == "columns do not fit: kind is missing; extra is unknown; value is Int64, not Float64"
    )


def test_a_table_that_fits_is_returned_as_it_is() -> None:
    table = frame(
        [{"sample_id": "s", "reward": "answer", "kind": "V", "value": 1.0, "confidence": 1.0}], REWARDS
    )
    assert check_schema(table, REWARDS, "rewards") is table
    assert table["evidence"].to_list() == [None]
