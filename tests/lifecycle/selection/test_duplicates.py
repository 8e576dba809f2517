import json
import random

import pytest

from selfimp_dagster.lifecycle.selection.sketches import NearKeys, found_with

STORY = (
    "On a cold morning the old sailor walked down to the harbour, untied the small green boat that his "
    "father had built, and rowed out past the lighthouse without once looking back at the sleeping town"
)
INSTRUCTIONS = (
    "You are a careful student. Read the problem twice, work it out on paper, check the result by doing "
    "it backwards, and then write down the final answer and nothing else. The problem: {}"
)


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
    bands = NearKeys.at(threshold, ngram=3).bands
    assert found_with(bands, threshold) >= 0.99
    assert bands == 1 or found_with(bands // 2, threshold) < 0.99
