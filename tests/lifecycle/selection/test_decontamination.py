import json
from dataclasses import replace

import polars as pl
import pytest

SUM = "What is {} + {}? Answer with only the final answer."
SUMS = [(f"item {a}+{b}", SUM.format(a, b)) for a in range(12, 20) for b in range(45, 50)]
CLIPS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
STORIES = [
    ("clips", CLIPS),
    ("weng", "Weng earns 12 dollars an hour for babysitting. Yesterday she watched twins for 50 minutes. "
             "How much did she earn?"),
    ("betty", "Betty is saving money for a wallet which costs 100 dollars. She has only half of the money. "
              "How much more does she need?"),
    ("garden", "Mark planted ten kinds of yellow flowers in his garden. How many flowers grow there now?"),
]  # fmt: skip


def evidence(fate):
    return json.loads(fate["evidence"])


def test_the_item_itself_is_dropped_with_its_evidence(corpus, judge):
    fate = judge("decontamination", corpus([("a", SUM.format(12, 45), "57")], items=SUMS))["a"]
    assert not fate["kept"]
    assert fate["score"] == 1.0
    assert evidence(fate) == {
        "item_id": "item 12+45",
        "skill": "sums",
        "rule": "whole item",
        "found_in": "prompt",
        "matched": "what is 12 + 45 ? answer with only the final answer .",
    }


@pytest.mark.parametrize(
    "prompt",
    [SUM.format(12, 50), SUM.format(33, 45), SUM.format(45, 12), SUM.format(112, 45), "What is 3 * 4?"],
)
def test_a_task_of_the_same_template_with_other_numbers_is_kept(corpus, judge, prompt):
    fate = judge("decontamination", corpus([("a", prompt, "57")], items=SUMS))["a"]
    assert fate["kept"]
    assert fate["score"] == 0.0


def test_a_short_sum_is_kept_although_its_neighbour_is_an_item(corpus, judge):
    context = corpus(
        [("a", "12 + 46 =", "58"), ("b", "7 + 12 + 45 =", "7 + 12 + 45 = 64"), ("c", "12  +  45  =", "57")],
        items=[("item", "12 + 45 =")],
    )
    assert {s: fate["kept"] for s, fate in judge("decontamination", context).items()} == {
        "a": True,
        "b": True,
        "c": False,
    }


@pytest.mark.parametrize("item", [SUM.format(12, 45), CLIPS])
@pytest.mark.parametrize(
    "quote", ["Here is a task. {} Think first.", "Rewrite: “{}”", "{}\nAnd then?", "Q:{}A:"]
)
@pytest.mark.parametrize("field", ["prompt", "response"])
def test_an_item_quoted_verbatim_is_found_wherever_it_is(corpus, judge, item, quote, field):
    text = quote.format(item).upper()
    row = ("a", text, "no") if field == "prompt" else ("a", "Write a task.", text)
    fate = judge("decontamination", corpus([row], items=SUMS + STORIES))["a"]
    assert not fate["kept"]
    assert evidence(fate)["rule"] == "whole item"
    assert evidence(fate)["found_in"] == field


def test_what_an_item_shares_with_its_twin_alone_is_still_its_own(corpus, judge):
    half = CLIPS.partition(",")[0] + " of the year, not 2 of them."
    twin = ("twin", CLIPS.replace("48", "60"))
    context = corpus([("a", half, "no"), ("b", half.replace("48", "60"), "no")], items=[*STORIES, twin])
    assert all(fate["kept"] for fate in judge("decontamination", context).values()), "as two items"
    parents = pl.when(pl.col("task_id") == "twin").then(pl.lit(["clips"])).otherwise("parent_ids")
    items = context.evaluation_items.with_columns(parent_ids=parents)
    fates = judge("decontamination", replace(context, evaluation_items=items))
    assert {evidence(fate)["item_id"] for fate in fates.values()} == {"clips", "twin"}


@pytest.mark.parametrize(
    "text", ["Solve this: 12 + 45 =", 'Repeat "12 + 45 =" twice', "Now do this.\n12 + 45 =\nDone?"]
)
def test_a_short_item_is_found_where_it_stands_alone(corpus, judge, text):
    context = corpus([("a", text, "57"), ("b", "Write.", text)], items=[("item", "12 + 45 =")])
    assert not any(fate["kept"] for fate in judge("decontamination", context).values())


def test_a_part_that_is_an_items_own_is_found(corpus, judge):
    text = "Tom knows that Natalia sold clips to 48 of her friends in April. Who sold clips?"
    fate = judge("decontamination", corpus([("a", text, "Natalia")], items=STORIES))["a"]
    assert not fate["kept"]
    assert evidence(fate)["item_id"] == "clips"
    assert evidence(fate)["rule"] == "item-specific n-gram"
    assert evidence(fate)["matched"] == "natalia sold clips to 48 of her friends"
    # The item has 34 tokens, so 27 n-grams; the run of 10 shared tokens has 3 of them.
    assert fate["score"] == pytest.approx(3 / 27)


def test_a_story_with_other_numbers_is_another_problem(corpus, judge):
    text = CLIPS.replace("48", "50")
    fates = judge("decontamination", corpus([("a", text, "75"), ("b", f"{text} 48?", "72")], items=STORIES))
    assert fates["a"]["kept"]
    assert not fates["b"]["kept"]


def test_fewer_tokens_than_an_ngram_are_no_match(corpus, judge):
    text = "Natalia sold clips to 48 of his cousins in May."
    context = corpus([("a", text, "x")], items=STORIES)
    assert judge("decontamination", context)["a"]["kept"]
    assert not judge("decontamination", context, ngram=6)["a"]["kept"]


def test_an_ngram_that_two_items_share_is_a_template(corpus, judge):
    shared = "Every evening the bright lanterns along the quiet river"
    items = [("one", f"{shared} glow red. Why?"), ("two", f"{shared} swing gently. How?")]
    rows = [("a", f"{shared} go out.", "x"), ("b", f"{shared} swing gently. How?", "x")]
    fates = judge("decontamination", corpus(rows, items=items))
    assert fates["a"]["kept"]
    assert evidence(fates["b"])["item_id"] == "two"


def test_the_system_message_is_searched_too(corpus, judge):
    context = corpus([("a", "Write.", "x")], items=SUMS)
    messages = [[{"role": "system", "content": f"Example: {SUM.format(13, 46)}"}]]
    samples = context.samples.with_columns(
        context.samples["messages"].clear().extend_constant(messages[0], 1)
    )
    changed = type(context)(**{**context.__dict__, "samples": samples})
    assert evidence(judge("decontamination", changed)["a"])["found_in"] == "messages"


def test_every_item_is_found_in_a_corpus_of_items_and_no_other_row_is_dropped(corpus, judge):
    clean = [SUM.format(a, b) for a in range(60, 70) for b in range(45, 50)]
    rows = [(f"leak {i}", p, "x") for i, (_, p) in enumerate(SUMS)] + [
        (f"ok {i}", p, "x") for i, p in enumerate(clean)
    ]
    fates = judge("decontamination", corpus(rows, items=SUMS))
    assert {s for s, fate in fates.items() if not fate["kept"]} == {
        s for s, _, _ in rows if s.startswith("leak")
    }
    assert {evidence(fate)["item_id"] for fate in fates.values() if not fate["kept"]} == {i for i, _ in SUMS}


def test_nothing_to_compare_with_keeps_everything(corpus, judge):
    assert judge("decontamination", corpus([("a", SUM.format(12, 45), "57")]))["a"]["kept"]
