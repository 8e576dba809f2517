"""Criticism, reflection, plans, parts, tools and debate: what is asked, and which answer comes of it."""

import pytest
from scripted import Policy, in_turn, refine

from selfimp_dagster.lifecycle.refinement.least_to_most import simpler_questions
from selfimp_dagster.lifecycle.refinement.react import first_action


def test_self_refine_stops_where_the_policy_has_nothing_to_say() -> None:
    def say(asked: str) -> str:
        return "No problem." if asked.startswith("Check") else "0"

    answers, told = refine("self_refine", policy := Policy(say), {"3+4": "7"}, iterations=3)
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == 1
    assert len(policy.chats) == 1


def test_self_refine_revises_as_often_as_it_may() -> None:
    policy = Policy(in_turn("it is too large", "8", "still too large", "7"))
    answers, told = refine("self_refine", policy, {"3+4": "9"}, iterations=2)
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == 0
    assert policy.generations == ["I", "R", "I", "R"]
    assert [turn["content"] for turn in policy.chats[-1] if turn["role"] == "assistant"] == [
        "9",
        "it is too large",
        "8",
        "still too large",
    ]


@pytest.mark.parametrize("said", [("", "7"), ("too large", "")])
def test_an_empty_criticism_or_revision_leaves_the_answer(said: tuple[str, str]) -> None:
    answers, _ = refine("self_refine", Policy(in_turn(*said)), {"3+4": "9"}, iterations=1)
    assert answers == {"3+4": "9"}


def test_reflexion_tries_failed_tasks_again_with_what_it_noted() -> None:
    policy = Policy(in_turn("I subtracted.", "8", "I guessed.", "7"))
    answers, told = refine(
        "reflexion", policy, {"3+4": "-1", "1+1": "2"}, {"-1": 0, "2": 1, "8": 0, "7": 1}, attempts=3
    )
    assert answers == {"3+4": "7", "1+1": "2"}
    assert told["3+4"].agreement == told["1+1"].agreement == 1
    assert told["1+1"].tokens == 0
    assert "- I subtracted.\n- I guessed." in policy.chats[-1][-1]["content"]


def test_reflexion_does_not_repeat_what_nobody_judges() -> None:
    answers, told = refine("reflexion", policy := Policy(in_turn()), {"3+4": "9"})
    assert (answers, told["3+4"].agreement, policy.chats) == ({"3+4": "9"}, 0, [])


def test_critic_keeps_what_the_calculator_confirms_and_corrects_the_rest() -> None:
    policy = Policy(in_turn("3 + 4", "The expression is 5 * 6.", "hm", "30"))
    answers, told = refine("critic", policy, {"3+4": "7", "5*6": "11", "odd": "1"})
    assert answers == {"3+4": "7", "5*6": "30", "odd": "1"}
    assert [told[prompt].agreement for prompt in answers] == [1, 0, 0]
    assert policy.chats[-1][-1]["content"].startswith(
        "A calculator says that 5 * 6 is 30. Your answer was 11."
    )
    assert policy.generations == ["I", "I", "I", "R"]


def test_plan_and_solve_answers_behind_its_plan() -> None:
    policy = Policy(in_turn("First add the units.", "7"))
    answers, told = refine("plan_and_solve", policy, {"3+4": "9"})
    assert (answers, told["3+4"].agreement) == ({"3+4": "7"}, 1)
    assert policy.chats[-1][1] == {"role": "assistant", "content": "First add the units."}
    assert policy.chats[-1][2]["content"] == "3+4"
    silent, told = refine("plan_and_solve", Policy(in_turn("", " ")), {"3+4": "9"})
    assert (silent, told["3+4"].agreement) == ({"3+4": "9"}, 0)


def test_simpler_questions_are_what_asks() -> None:
    response = "1. What is 3?\n2) What is 4?\n- What is 3?\nThen add.\nWhat is 3+4?\n\u2022 Why?"
    assert simpler_questions(response, "What is 3+4?") == ["What is 3?", "What is 4?", "Why?"]


def test_least_to_most_sees_the_answers_to_the_parts() -> None:
    policy = Policy(in_turn("What is 2+4?\nWhat is 1 more?", "nothing to ask", "6", "7", "7"))
    answers, told = refine("least_to_most", policy, {"3+4": "9", "1+1": "2"}, questions=2)
    assert answers == {"3+4": "7", "1+1": "2"}
    assert [told[prompt].agreement for prompt in answers] == [1, 0]
    said = [turn["content"] for turn in policy.chats[-1]]
    assert said == [
        "3+4\n\nFirst answer only this: What is 2+4?",
        "6",
        "Then answer only this: What is 1 more?",
        "7",
        "3+4",
    ]


@pytest.mark.parametrize(
    ("response", "said", "action", "argument"),
    [
        ("Add. calculate[3 + 4]\nObservation: 8", "Add. calculate[3 + 4]", "calculate", "3 + 4"),
        ("FINISH[7", "FINISH[7", "finish", "7"),
        ("It is 7.", "It is 7.", None, ""),
        ("recalculate[3]", "recalculate[3]", None, ""),
    ],
)
def test_the_first_action_of_a_turn(response: str, said: str, action: str | None, argument: str) -> None:
    assert first_action(response) == (said, action, argument)


def test_react_hears_the_calculator_and_not_its_own_observation() -> None:
    policy = Policy(in_turn("calculate[3+4]\nObservation: 8", "no idea", "finish[7]", "7"))
    answers, told = refine("react", policy, {"3+4": "9"}, steps=3)
    assert (answers, told["3+4"].agreement) == ({"3+4": "7"}, 1)
    said = [turn["content"] for turn in policy.chats[-1]]
    assert "Observation: 7" in said
    assert not any("8" in text for text in said)
    assert any(text.startswith("Observation: error: no action") for text in said)


def test_react_that_never_finishes_keeps_the_greedy_answer() -> None:
    answers, told = refine("react", Policy(lambda asked: "calculate[1/0]"), {"3+4": "9"}, steps=2)
    assert (answers, told["3+4"].agreement) == ({"3+4": "9"}, 0)


def test_debating_agents_see_the_others_and_the_last_answers_count() -> None:
    policy = Policy(in_turn("7", "8", "9", "7", "7", "9"))
    answers, told = refine("debate", policy, {"3+4": "9"}, agents=3, rounds=1)
    assert answers == {"3+4": "7"}
    assert told["3+4"].agreement == pytest.approx(2 / 3)
    assert "- 8\n- 9" in policy.chats[3][-1]["content"]
    assert "- 7" not in policy.chats[3][-1]["content"]


def test_a_mixture_is_one_answer_made_of_all_proposals_of_the_last_layer() -> None:
    policy = Policy(in_turn("6", "7", "7", "8", "7"))
    answers, told = refine("mixture_of_agents", policy, {"3+4": "9"}, proposals=2, layers=2)
    assert (answers, told["3+4"].agreement) == ({"3+4": "7"}, 1)
    assert "1. 6\n2. 7" in policy.chats[2][-1]["content"]
    assert "1. 7\n2. 8" in policy.chats[-1][-1]["content"]
