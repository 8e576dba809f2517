"""What of the dropped rows stays usable."""

from typing import Any

import polars as pl

from selfimp_dagster.lifecycle.selection import SelectionContext, SelectionStep, run_chain
from selfimp_dagster.lifecycle.selection.spare import SPARE, spare_rows

_CHAIN = ("verified", "finished", "decontamination", "exact_duplicates", "near_duplicates", "cap_per_task")


def spare(context: SelectionContext, chain: tuple[str, ...] = _CHAIN) -> dict[str, tuple[str, bool]]:
    parameters: dict[str, dict[str, Any]] = {"cap_per_task": {"at_most": 1}}
    steps = [SelectionStep.of(name, **parameters.get(name, {})) for name in chain]
    found = spare_rows(steps, context, run_chain(steps, context)[0])
    assert found.schema == SPARE
    assert found.sort("task_id", "sample_id").equals(found)
    return {row["sample_id"]: (row["step"], row["contrast"]) for row in found.iter_rows(named=True)}


def test_a_row_that_only_its_reward_was_against_is_a_contrast(corpus: Any) -> None:
    context = corpus(
        [
            ("good", "1 + 1", "2"),
            ("wrong", "1 + 1", "3"),
            ("wrong again", "1 + 1", "3"),
            ("repeated", "1 + 1", "2"),
            ("over the cap", "1 + 1", "it is two"),
            ("unjudged", "1 + 1", "5"),
        ],
        rewards={"good": 1, "wrong": 0, "wrong again": 0, "repeated": 1, "over the cap": 1},
    )
    assert spare(context) == {
        "wrong": ("verified", True),
        "wrong again": ("verified", False),
        "repeated": ("exact_duplicates", False),
        "over the cap": ("cap_per_task", False),
        "unjudged": ("verified", True),
    }


def test_what_quotes_an_evaluation_item_is_never_spare(corpus: Any) -> None:
    question = "how many apples are in the red basket of the old farmer"
    samples = [("good", "1 + 1", "2"), ("quotes", "1 + 1", question), ("asks", question, "3")]
    rewards = {"good": 1.0, "quotes": 0.0, "asks": 0.0}
    context = corpus(samples, rewards=rewards, items=[("item", question)])
    assert spare(context) == {}
    first = ("decontamination", "exact_duplicates", "near_duplicates", "verified")
    assert spare(context, first) == {}


def test_a_contrast_repeats_no_row_of_an_earlier_round(corpus: Any) -> None:
    context = corpus(
        [("good", "1 + 1", "2"), ("wrong", "1 + 1", "3")],
        rewards={"good": 1.0, "wrong": 0.0},
        earlier=[("old", "test/0000", "1 + 1", "3")],
    )
    assert spare(context) == {"wrong": ("verified", False)}


def test_where_duplicates_are_dropped_first_the_verdict_is_asked_of_the_rest(corpus: Any) -> None:
    context = corpus(
        [("a good", "1 + 1", "2"), ("b wrong", "1 + 1", "3"), ("c wrong", "1 + 1", "3")],
        rewards={"a good": 1.0, "b wrong": 0.0, "c wrong": 0.0},
    )
    chain = ("exact_duplicates", "near_duplicates", "decontamination", "verified")
    assert spare(context, chain) == {"b wrong": ("verified", True), "c wrong": ("exact_duplicates", False)}


def test_the_selection_itself_is_not_changed(corpus: Any) -> None:
    context = corpus([("good", "1 + 1", "2"), ("wrong", "1 + 1", "3")], rewards={"good": 1.0, "wrong": 0.0})
    steps = [SelectionStep.of(name) for name in _CHAIN]
    selection, _ = run_chain(steps, context)
    spare_rows(steps, context, selection)
    assert selection.filter(pl.col("sample_id") == "wrong")["step"].to_list() == ["verified"]
