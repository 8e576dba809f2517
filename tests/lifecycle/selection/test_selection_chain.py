from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.selection import (
    ALWAYS_ON,
    HeldRows,
    SelectionStep,
    check_chain,
    funnel,
    kept_sample_ids,
    run_chain,
)
from selfimp_dagster.records import SELECTION
from selfimp_dagster.registry import Method, all_methods

CHAIN = [SelectionStep.of(name) for name in ("verified", *ALWAYS_ON, "difficulty_band", "cap_per_task")]
FRAMES = ("tasks", "samples", "rewards", "evaluation_items")

WORDS = st.sampled_from(["12", "45", "+", "=", "sum", "so", "the", "\n", ".", "x"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)
REWARD = st.sampled_from([0.0, 0.5, 1.0, None])
SAMPLE = st.tuples(st.sampled_from(["1 + 1 =", "12 + 45 =", "the sum of x ."]) | TEXTS, TEXTS, REWARD)


@st.composite
def contexts(draw, corpus):
    drawn = draw(st.lists(SAMPLE, max_size=12))
    samples = [(f"s{i:02}", prompt, response) for i, (prompt, response, _) in enumerate(drawn)]
    earlier = draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
    items = draw(st.lists(TEXTS, max_size=4))
    return corpus(
        samples,
        rewards={s: reward for (s, _, _), (_, _, reward) in zip(samples, drawn, strict=True)},
        earlier=[(f"e{i}", "test/0000", prompt, response) for i, (prompt, response) in enumerate(earlier)],
        items=[(f"i{i}", prompt) for i, prompt in enumerate(items)],
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_sample_is_kept_or_dropped_once_whatever_the_order_of_the_rows(corpus, data):
    context = data.draw(contexts(corpus))
    selection, _ = run_chain(CHAIN, context)
    assert selection.schema == SELECTION

    assert set(selection["sample_id"]) == set(context.samples["sample_id"])
    for _, fates in selection.group_by("sample_id", maintain_order=True):
        assert fates["position"].to_list() == list(range(fates.height))
        assert fates["kept"].to_list()[:-1] == [True] * (fates.height - 1)
        assert fates["kept"][-1] == (fates["sample_id"][0] in kept_sample_ids(selection))
        assert fates.height == len(CHAIN) or not fates["kept"][-1]

    seed = data.draw(st.integers(0, 1000))
    frames = {name: getattr(context, name) for name in FRAMES} | {"earlier": context.earlier.rows}
    shuffled = {name: frame.sample(fraction=1.0, shuffle=True, seed=seed) for name, frame in frames.items()}
    shuffled["earlier"] = HeldRows(shuffled["earlier"])
    assert run_chain(CHAIN, replace(context, **shuffled))[0].equals(selection)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_kept_has_nothing_left_to_remove(corpus, data):
    context = data.draw(contexts(corpus))
    steps = [SelectionStep.of(name) for name in ALWAYS_ON]
    kept = kept_sample_ids(run_chain(steps, context)[0])
    subset = replace(context, samples=context.samples.filter(pl.col("sample_id").is_in(kept)))
    assert kept_sample_ids(run_chain(steps, subset)[0]) == kept


def test_the_last_row_of_a_sample_says_where_it_left(corpus):
    context = corpus(
        [
            ("a", "1 + 1 =", "2"),
            ("b", "1 + 1 =", "3"),
            ("c", "1 + 1 =", " 2"),
            ("d", "12 + 45 =", "57"),
            ("e", "2 + 2 =", "4"),
        ],
        rewards={"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0, "e": 1.0},
        items=[("item", "12 + 45 =")],
    )
    selection, _ = run_chain(CHAIN, context)
    last = selection.group_by("sample_id", maintain_order=True).last()
    assert {row["sample_id"]: (row["step"], row["kept"]) for row in last.iter_rows(named=True)} == {
        "a": ("cap_per_task", True),
        "b": ("verified", False),
        "c": ("exact_duplicates", False),
        "d": ("decontamination", False),
        "e": ("difficulty_band", False),
    }
    assert kept_sample_ids(selection) == ["a"]
    assert funnel(selection).rows() == [
        (0, "verified", 5, 4, 1),
        (1, "exact_duplicates", 4, 3, 1),
        (2, "near_duplicates", 3, 3, 0),
        (3, "decontamination", 3, 2, 1),
        (4, "difficulty_band", 2, 1, 1),
        (5, "cap_per_task", 1, 1, 0),
    ]


def test_an_empty_corpus_selects_nothing(corpus):
    selection, _ = run_chain(CHAIN, corpus([]))
    assert selection.is_empty()
    assert kept_sample_ids(selection) == []
    assert funnel(selection).is_empty()


@pytest.mark.parametrize("missing", ALWAYS_ON)
def test_a_chain_without_an_always_on_step_is_refused(corpus, missing):
    steps = [step for step in CHAIN if step.method.name != missing]
    with pytest.raises(SelfimpError, match=rf"recipe\.selection: .*{missing} is there 0 times"):
        check_chain(steps)
    with pytest.raises(SelfimpError, match=missing):
        run_chain(steps, corpus([]))


def test_a_chain_with_an_always_on_step_twice_is_refused():
    with pytest.raises(SelfimpError, match="decontamination is there 2 times"):
        check_chain([*CHAIN, SelectionStep.of("decontamination")])


def test_a_step_that_forgets_a_row_is_an_error(corpus):
    def forget(rows, context, parameters):
        return judge_all(rows).head(1)

    def judge_all(rows):
        return rows.select(
            "sample_id", score=pl.lit(0.0), kept=pl.lit(True), reason=pl.lit(""), evidence=pl.lit("{}")
        )

    method = Method("selection", "forget", forget, BaseModel, "", "", frozenset())
    with pytest.raises(ValueError, match="forget must judge each of its 2 rows"):
        run_chain(
            [*CHAIN[1:4], SelectionStep(method, CHAIN[1].parameters)],
            corpus([("a", "1", "2"), ("b", "2", "3")]),
        )


class Times(BaseModel):
    """How often a step has run in its line."""

    times: int


def _counting(rows, context, parameters):
    frame = rows.select(
        "sample_id", score=pl.lit(0.0), kept=pl.lit(True), reason=pl.lit(""), evidence=pl.lit("{}")
    )
    return frame, Times(times=1 + (context.state.times if context.state else 0))


COUNTING = SelectionStep(
    Method("selection", "counting", _counting, BaseModel, "", "", frozenset(), Times), CHAIN[1].parameters
)


def test_a_step_is_given_what_it_left_in_the_parent_round(corpus):
    chain = [*(SelectionStep.of(name) for name in ALWAYS_ON), COUNTING]
    context = corpus([("a", "1", "2")])
    _, first = run_chain(chain, context)
    assert first == {"counting": Times(times=1)}
    assert run_chain(chain, context, first)[1] == run_chain(chain, context, first)[1]
    assert run_chain(chain, context, first)[1] == {"counting": Times(times=2)}


def test_a_step_with_a_state_is_there_once():
    with pytest.raises(SelfimpError, match="counting carries a state from round to round and is there twice"):
        check_chain([*CHAIN, COUNTING, COUNTING])


def test_a_score_that_is_no_number_is_an_error(corpus):
    def score(rows, context, parameters):
        return _counting(rows, context, parameters)[0].with_columns(score=pl.lit(float("nan")))

    method = Method("selection", "unsure", score, BaseModel, "", "", frozenset())
    with pytest.raises(ValueError, match="unsure must give a row a number or no score"):
        run_chain([*CHAIN[1:4], SelectionStep(method, CHAIN[1].parameters)], corpus([("a", "1", "2")]))


def test_samples_without_a_task_and_ids_there_twice_are_refused(corpus):
    context = corpus([("a", "1 + 1 =", "2")], rewards={"a": 1.0})
    with pytest.raises(SelfimpError, match="1 samples answer tasks that the corpus does not have"):
        run_chain(CHAIN, replace(context, tasks=context.tasks.clear()))
    for name in ("tasks", "samples", "rewards"):
        twice = pl.concat([getattr(context, name)] * 2)
        with pytest.raises(SelfimpError, match=f"{name} has 2 rows that share"):
            run_chain(CHAIN, replace(context, **{name: twice}))


def test_earlier_rows_may_have_further_columns_and_may_not_lack_any(corpus):
    rows = corpus([], earlier=[("z", "test/0000", "1 + 1 =", "2")]).earlier.rows
    assert HeldRows(rows.with_columns(skill=pl.lit("sums"))).rows.equals(rows)
    with pytest.raises(SelfimpError, match="prompt is missing"):
        HeldRows(rows.drop("prompt"))


def test_every_selection_method_says_what_it_does_and_where_it_comes_from():
    methods = [m for m in all_methods() if m.stage == "selection"]
    assert {*ALWAYS_ON, "verified", "difficulty_band", "cap_per_task"} <= {m.name for m in methods}
    for m in methods:
        assert all([m.summary, m.section.startswith("3"), m.paper])
