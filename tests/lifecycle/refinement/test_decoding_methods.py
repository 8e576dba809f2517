"""Best-of-N, votes and search: which response is chosen, and at what price."""

import math

import pytest
from scripted import Policy, in_turn, refine

from selfimp_dagster.lifecycle.refinement.tree_of_thoughts import value_of
from selfimp_dagster.lifecycle.refinement.universal_self_consistency import chosen_number
from selfimp_dagster.lifecycle.refinement.weighted_voting import confidence_weights


def test_best_of_n_takes_the_best_rewarded_and_among_equals_the_shortest() -> None:
    policy = Policy(in_turn("it is 7", "7", "8"))
    answers, told = refine("best_of_n", policy, {"3+4": "9"}, {"9": 0, "7": 1, "it is 7": 1}, samples=3)
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == pytest.approx(2 / 3)  # of three that were judged
    assert told["3+4"].tokens == 3 * 11


def test_best_of_n_keeps_the_greedy_answer_where_nothing_is_judged() -> None:
    answers, told = refine("best_of_n", Policy(in_turn("7", "8")), {"3+4": "9"}, samples=2)
    assert answers == {"3+4": "9"}
    assert told["3+4"].agreement == 0


def test_confidence_weights_are_a_softmax() -> None:
    weights = confidence_weights([0.9, 0.5], temperature=0.2)
    assert weights == pytest.approx([math.exp(2) / (1 + math.exp(2)), 1 / (1 + math.exp(2))])
    assert confidence_weights([0.9, 0.1, 0.4], 1e9) == pytest.approx([1 / 3] * 3)


def test_one_sure_vote_outweighs_two_unsure_ones() -> None:
    votes = [("7", math.log(0.9)), ("8", math.log(0.3)), ("8", math.log(0.3))]
    answers, told = refine("weighted_voting", Policy(in_turn(*votes)), {"3+4": "8"}, votes=3)
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == pytest.approx(math.exp(3) / (math.exp(3) + 2))  # (0.9 - 0.3) / 0.2
    unweighted, _ = refine(
        "weighted_voting", Policy(in_turn(*votes)), {"3+4": "8"}, votes=3, confidence_temperature=1e6
    )
    assert unweighted == {"3+4": "8"}


def test_votes_without_an_answer_leave_the_greedy_one() -> None:
    answers, told = refine("weighted_voting", Policy(in_turn("", "none")), {"3+4": "8"}, votes=2)
    assert answers == {"3+4": "8"}
    assert told["3+4"].agreement == 0


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("The most consistent response is Response 2", 2),
        ("2", 2),
        ("Response 9, or rather response 3", 3),
        ("Response12", None),
        ("none of them", None),
        ("", None),
    ],
)
def test_the_number_that_a_choice_names(response: str, number: int | None) -> None:
    assert chosen_number(response, choices=3) == number


def test_the_response_that_the_policy_chooses_is_taken() -> None:
    policy = Policy(in_turn("7", "8", "The most consistent response is Response 1"))
    answers, told = refine("universal_self_consistency", policy, {"3+4": "9"}, samples=2)
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == 1
    assert "Response 2: 8" in policy.chats[-1][-1]["content"]
    undecided, told = refine(
        "universal_self_consistency", Policy(in_turn("7", "8", "I cannot say.")), {"3+4": "9"}, samples=2
    )
    assert undecided == {"3+4": "9"}
    assert told["3+4"].agreement == 0


@pytest.mark.parametrize(
    ("response", "value"),
    [("sure", 20), ("Likely.", 1), ("impossible!", 0.001), ("maybe sure", 0), ("", 0)],
)
def test_words_of_value(response: str, value: float) -> None:
    assert value_of(response) == value


def test_the_search_goes_on_with_the_step_that_is_valued_most() -> None:
    def say(asked: str) -> str:
        if "one word" in asked:
            return "sure" if "carry" in asked else "impossible"
        if "next step" in asked:
            return next(steps)
        return "7" if "carry" in asked else "8"

    steps = iter(["guess", "carry"])
    answers, told = refine(
        "tree_of_thoughts", Policy(say), {"3+4": "9"}, depth=1, breadth=1, proposals=2, valuations=1
    )
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == 1


def test_a_search_without_a_step_keeps_the_greedy_answer() -> None:
    answers, told = refine("tree_of_thoughts", Policy(lambda asked: " \n "), {"3+4": "9"})
    assert answers == {"3+4": "9"}
    assert told["3+4"].agreement == 0


def test_the_contrastive_answer_is_taken_and_both_models_are_paid_for() -> None:
    policy = Policy(in_turn("7", " "))
    policy.against = policy.sample
    answers, told = refine("contrastive_decoding", policy, {"3+4": "9", "1+1": "2"})
    assert answers == {"3+4": "7", "1+1": "2"}, "an empty response leaves the greedy one"
    assert [told[task].agreement for task in answers] == [0, 1]
    assert told["3+4"].tokens == 2 * 11


def test_nothing_is_contrasted_with_itself() -> None:
    answers, told = refine("contrastive_decoding", Policy(in_turn()), {"3+4": "9"})
    assert answers == {"3+4": "9"}
    assert told["3+4"].tokens == 0


def test_best_of_n_ranks_by_the_reward_that_is_named() -> None:
    asked: list[str | None] = []
    policy = Policy(in_turn("7", "8"))
    refine("best_of_n", policy, {"3+4": "9"}, {"7": 1}, samples=2, reward="verifier", judged=asked)
    assert asked == ["verifier"]
