import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimp_dagster.lifecycle.selection import EARLIER, duplicates
from selfimp_dagster.lifecycle.selection.row_keys import (
    ROW_KEYS,
    Nearness,
    bands_for,
    exact_keys,
    near_keys,
)

STORY = (
    "On a cold morning the old sailor walked down to the harbour, untied the small green boat that his "
    "father had built, and rowed out past the lighthouse without once looking back at the sleeping town"
)
INSTRUCTIONS = (
    "You are a careful student. Read the problem twice, work it out on paper, check the result by doing "
    "it backwards, and then write down the final answer and nothing else. The problem: {}"
)

# Sentences of two kinds; those of a kind differ in one word, and no two of them are near the threshold.
_WORDS = [[f"{kind}{'abcdefghijklmnopqrstuvwxyz'[n]}" for n in range(24)] for kind in ("north", "south")]
WORDY = [" ".join(words) for words in _WORDS] + [
    " ".join("other" if n == changed else word for n, word in enumerate(words))
    for words in _WORDS
    for changed in (0, 11, 23)
]


def duplicate_of(fate):
    return json.loads(fate["evidence"]).get("duplicate_of")


def test_an_exact_duplicate_names_the_lowest_sample_id_of_its_text(corpus, judge):
    fates = judge(
        "exact_duplicates",
        corpus([("c", "1 + 1 =", "2"), ("a", "1 + 1 =", "2\n"), ("b", "1 + 1 =", "3"), ("d", "2 =", "2")]),
    )
    assert [s for s, fate in fates.items() if not fate["kept"]] == ["c"]
    assert duplicate_of(fates["c"]) == "a"
    assert (fates["c"]["score"], fates["a"]["score"]) == (1.0, 0.0)


def test_an_exact_duplicate_of_an_earlier_round_is_dropped_and_names_the_first_round(corpus, judge):
    earlier = [("z", "test/0000", "1 + 1 =", "2"), ("y", "test/0001", "1 + 1 =", "2")]
    context = corpus([("a", "1 + 1 =", "2"), ("b", "1 + 1 =", "two")], earlier=earlier)
    fates = judge("exact_duplicates", context)
    assert json.loads(fates["a"]["evidence"]) == {"duplicate_of": "z", "round": "test/0000"}
    assert fates["b"]["kept"]


def test_letter_case_makes_no_exact_duplicate(corpus, judge):
    fates = judge("exact_duplicates", corpus([("a", "p", "A"), ("b", "p", "a")]))
    assert all(fate["kept"] for fate in fates.values())


def test_a_near_duplicate_is_dropped_with_its_similarity(corpus, judge):
    changed = STORY.replace("sleeping town", "sleeping village")
    context = corpus([("b", "Tell a story.", changed), ("a", "Tell a story.", STORY)])
    fate = judge("near_duplicates", context)["b"]
    # 36 words are 34 shingles; the last one differs: 33 of 35.
    assert fate["score"] == pytest.approx(33 / 35)
    assert json.loads(fate["evidence"]) == {
        "duplicate_of": "a",
        "round": "test/0001",
        "similarity": pytest.approx(33 / 35),
    }
    assert not fate["kept"]
    assert judge("near_duplicates", context)["a"]["kept"]
    assert judge("near_duplicates", context, threshold=0.95)["b"]["kept"]


def test_a_near_duplicate_of_an_earlier_round_is_dropped(corpus, judge):
    context = corpus(
        [("a", "Tell a story.", STORY.upper() + "!")], earlier=[("z", "test/0000", "Tell a story.", STORY)]
    )
    assert duplicate_of(judge("near_duplicates", context)["a"]) == "z"


def test_a_changed_number_or_operator_in_a_long_template_is_another_problem(corpus, judge):
    problems = ["12 + 45", "12 + 46", "12 - 45", "45 + 12"]
    context = corpus([(f"s{i}", INSTRUCTIONS.format(p), "57") for i, p in enumerate(problems)])
    assert all(fate["kept"] for fate in judge("near_duplicates", context).values())


def test_two_answers_to_one_long_prompt_are_no_duplicates(corpus, judge):
    context = corpus([("a", STORY + ". Did he row?", "yes"), ("b", STORY + ". Did he row?", "no")])
    assert all(fate["kept"] for fate in judge("near_duplicates", context).values())


def test_punctuation_around_a_short_answer_makes_no_difference(corpus, judge):
    fates = judge(
        "near_duplicates",
        corpus([("a", "Capital of France?", "Paris"), ("b", "Capital of France?", "Paris.")]),
    )
    assert duplicate_of(fates["b"]) == "a"


def test_what_stays_is_no_near_duplicate_of_what_stays(corpus, judge):
    # Each step of the walk changes one word: neighbours are similar, the ends are not.
    words, chain = STORY.split(), []
    for i in range(len(words)):
        words[i] = f"{words[i]}x"
        chain.append((f"s{i:02}", "Tell a story.", " ".join(words)))
    fates = judge("near_duplicates", corpus(chain), threshold=0.8)
    kept = {s for s, fate in fates.items() if fate["kept"]}
    assert "s00" in kept
    assert 1 < len(kept) < len(chain)
    assert {duplicate_of(fate) for s, fate in fates.items() if s not in kept} <= kept


def test_planted_near_duplicates_are_found_among_many_rows(corpus, judge):
    rng = random.Random(0)
    vocabulary = [f"word{i}x" for i in range(2000)]
    originals = [" ".join(rng.choices(vocabulary, k=60)) for _ in range(200)]
    planted = [text + " indeed" for text in originals[:50]]
    rows = [(f"a{i:03}", "Write.", text) for i, text in enumerate(originals)]
    rows += [(f"b{i:03}", "Write.", text) for i, text in enumerate(planted)]
    fates = judge("near_duplicates", corpus(rows))
    dropped = {s: duplicate_of(fate) for s, fate in fates.items() if not fate["kept"]}
    assert dropped == {f"b{i:03}": f"a{i:03}" for i in range(50)}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 0.95, 1.0])
def test_the_bands_find_a_pair_at_the_threshold(threshold):
    bands = bands_for(threshold)
    assert 1 - (1 - threshold ** (128 // bands)) ** bands >= 0.99


@given(
    rows=st.lists(st.tuples(st.sampled_from(WORDY), st.sampled_from(WORDY)), min_size=1, max_size=12),
    earlier=st.lists(st.tuples(st.sampled_from(WORDY), st.sampled_from(WORDY)), max_size=8),
    at_a_time=st.sampled_from([1, 3, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_keys_find_what_comparing_every_pair_finds(corpus, judge, rows, earlier, at_a_time):
    before = [(f"e{n}", f"test/{n % 3:04d}", *texts) for n, texts in enumerate(earlier)]
    context = corpus([(f"s{n:02d}", *texts) for n, texts in enumerate(rows)], earlier=before)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duplicates, "_AT_A_TIME", at_a_time)
        fates = judge("near_duplicates", context, threshold=0.6)
    staying = [texts for _, _, *texts in sorted(before, key=lambda row: (row[1], row[0]))]
    for number, texts in enumerate(rows):
        nearest = max((similarity(texts, other) for other in staying), default=0.0)
        fate = fates[f"s{number:02d}"]
        assert fate["kept"] == (nearest < 0.6)
        if fate["kept"]:
            staying.append(texts)
        else:
            assert fate["score"] == pytest.approx(nearest)


def similarity(one, other):
    """The smaller Jaccard similarity of the word triples of two prompts and of two responses."""

    def triples(text):
        words = text.split()
        return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}

    return min(
        len(triples(a) & triples(b)) / len(triples(a) | triples(b)) for a, b in zip(one, other, strict=True)
    )


def test_stored_keys_stand_for_those_of_the_rows(corpus, judge):
    rows = [("a", "Tell a story.", STORY), ("b", "Tell a story.", "short"), ("c", "Count", "1 2 3")]
    earlier = [("z", "test/0000", "Tell a story.", STORY.upper()), ("y", "test/0001", "Count", "1 2 3")]
    context = corpus(rows, earlier=earlier)
    asked = []

    def stored(nearness):
        asked.append(nearness)
        kept = context.earlier
        return (exact_keys(kept) if nearness is None else near_keys(kept, nearness)).lazy()

    lazily = replace(context, stored_keys=stored, earlier=context.earlier.lazy())
    for step in ("exact_duplicates", "near_duplicates"):
        fates = judge(step, context)
        assert judge(step, lazily) == fates
        assert not all(fate["kept"] for fate in fates.values())
    assert asked == [None, Nearness.of(0.9, 3)]


def test_rows_that_share_no_key_are_not_read(corpus, judge):
    def unread(_):
        raise AssertionError("read")

    context = corpus([("a", "One question.", "one"), ("b", "Another one!", "two")])
    gone = EARLIER.to_frame().lazy().map_batches(unread, schema=EARLIER)
    nothing = replace(context, earlier=gone, stored_keys=lambda nearness: ROW_KEYS.to_frame().lazy())
    for step in ("exact_duplicates", "near_duplicates"):
        assert all(fate["kept"] for fate in judge(step, nothing).values())
    with pytest.raises(AssertionError, match="read"):
        judge("exact_duplicates", replace(context, earlier=gone))
