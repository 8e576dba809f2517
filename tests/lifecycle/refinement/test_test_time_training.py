"""Test-time training: what each method has the adapter learn, in which order, and that it is given back."""

import math

import pytest
from scripted import Policy, in_turn, refine

EMBEDDED = {
    "1+1": (1.0, 0.0),
    "2+2": (0.8, 0.6),
    "9*9": (0.0, 1.0),
    "1+2": (1.0, 0.0),
    "8*8": (0.0, 1.0),
}


def test_each_task_is_answered_after_its_nearest_solved_tasks() -> None:
    policy = Policy(in_turn("3", "64"))
    answers, told = refine(
        "tt_sft",
        policy,
        {"1+2": "9", "8*8": "0"},
        solved={"1+1": "2", "2+2": "4", "9*9": "81"},
        embedded=EMBEDDED,
        neighbours=2,
        epochs=1,
    )
    assert answers == {"1+2": "3", "8*8": "64"}
    (adapter,) = policy.adapters
    assert adapter.done == [
        "reset",
        [("1+1", "2", 1.0), ("2+2", "4", 1.0)],
        "reset",
        [("9*9", "81", 1.0), ("2+2", "4", 1.0)],
        "removed",
    ]
    assert told["1+2"].agreement == pytest.approx((1 + 0.8) / 2)
    assert told["8*8"].agreement == pytest.approx((1 + 0.6) / 2)
    assert told["8*8"].tokens == 11 + 100


def test_without_solved_tasks_nothing_is_learnt() -> None:
    policy = Policy(in_turn())
    assert refine("tt_sft", policy, {"1+2": "9"})[0] == {"1+2": "9"}
    assert policy.adapters == []


def test_an_empty_answer_leaves_the_greedy_one() -> None:
    policy = Policy(in_turn("  "))
    answers, _ = refine("tt_sft", policy, {"1+2": "9"}, solved={"1+1": "2"}, embedded=EMBEDDED)
    assert answers == {"1+2": "9"}


def test_the_majority_is_the_label_and_the_advantage_that_of_grpo() -> None:
    groups = ["3", "It is 3.", "3", "4"], ["1", "2", "1", "2"], ["5", "5", "5", "5"]
    policy = Policy(in_turn(*(said for group in groups for said in group), "3", "2", " "))
    tasks = {"1+2": "9", "tie": "0", "sure": "5"}
    answers, told = refine("ttrl", policy, tasks, steps=1, group=4)
    assert answers == {"1+2": "3", "tie": "2", "sure": "5"}
    step, removed = policy.adapters[0].done
    # Three of four are right: mean 3/4, deviation 1/2 over n - 1. A tie and an unanimous group teach nothing.
    up, down = 0.25 / (0.5 + 1e-4), -0.75 / (0.5 + 1e-4)
    assert [row[:2] for row in step] == [("1+2", said) for said in groups[0]]
    assert [row[2] for row in step] == pytest.approx([up, up, up, down])
    assert removed == "removed"
    assert [told[task].agreement for task in tasks] == [0.75, 0.5, 1.0]
    assert told["1+2"].tokens == 5 * 11 + 100 // 3


def test_every_step_draws_new_groups() -> None:
    policy = Policy(in_turn("3", "4", "3", "3", "4", "3", "7"))
    refine("ttrl", policy, {"1+2": "9"}, steps=2, group=3)
    assert len(policy.adapters[0].done) == 3
    assert policy.generations == ["I"] * 7


def test_the_ladder_is_climbed_from_the_easiest_rung() -> None:
    said = {"easy": iter(["1", "0"]), "harder": iter(["1", "1"]), "task": iter(["7"])}
    policy = Policy(lambda asked: next(said[asked]))
    answers, told = refine(
        "ladder",
        policy,
        {"task": "9", "alone": "8"},
        {"1": 1.0, "0": 0.0},
        practice=["too hard", "harder", "easy"],
        difficulty={"easy": 1, "harder": 2, "task": 3, "too hard": 3, "alone": 1},
        steps=1,
        group=2,
    )
    assert answers == {"task": "7", "alone": "8"}, "nothing is easier than the other task"
    (adapter,) = policy.adapters
    spread = math.sqrt(0.5) + 1e-4
    step, removed = adapter.done
    assert [row[:2] for row in step] == [("easy", "1"), ("easy", "0")]
    assert [row[2] for row in step] == pytest.approx([0.5 / spread, -0.5 / spread])
    assert removed == "removed", "where all of a group are right there is nothing to learn"
    assert [chat[-1]["content"] for chat in policy.chats] == ["easy", "easy", "harder", "harder", "task"]
    assert (told["task"].agreement, told["alone"].agreement) == (1, 0)
    assert (told["task"].tokens, told["alone"].tokens) == (5 * 11 + 100, 0)
