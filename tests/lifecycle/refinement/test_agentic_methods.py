"""Searches for instructions and workflows, and memory: what is kept, and what it is chosen by."""

import math

import pytest
from pydantic import ValidationError
from scripted import Policy, refine

from selfimp_dagster.lifecycle.refinement.experience_memory import Memory, recall, retired
from selfimp_dagster.lifecycle.refinement.prompt_search import new_instruction, roulette
from selfimp_dagster.lifecycle.refinement.workflow_search import WorkflowSearch, neighbours, parent_chances
from selfimp_dagster.tasks.suites import Task

_VALUES = {"right": 1.0, "wrong": 0.0}
_PRACTICE = ("1+1", "2+2", "3+3")


def _say(asked: str) -> str:
    """Right where it is told to count; writes that instruction when it is asked for one."""
    if "square brackets" in asked:
        return "Sure! [Count slowly.]"
    return "right" if "Count slowly." in asked else "wrong"


@pytest.mark.parametrize("name", ["opro", "evoprompt"])
def test_the_instruction_under_which_practice_succeeds_is_used(name: str) -> None:
    policy = Policy(_say)
    answers, told = refine(name, policy, {"3+4": "wrong"}, _VALUES, practice=_PRACTICE)
    assert answers == {"3+4": "right"}
    assert told["3+4"].agreement == 1
    assert policy.chats[-1][-1]["content"] == "Count slowly.\n3+4"
    assert told["3+4"].tokens == 11 * len(policy.chats)  # the search is paid for by what it is for


@pytest.mark.parametrize("name", ["opro", "evoprompt"])
def test_where_no_instruction_is_better_than_none_the_greedy_answers_stay(name: str) -> None:
    answers, told = refine(
        name, Policy(lambda asked: "wrong"), {"3+4": "greedy"}, _VALUES, practice=_PRACTICE
    )
    assert (answers, told["3+4"].agreement) == ({"3+4": "greedy"}, 0)


@pytest.mark.parametrize("name", ["opro", "evoprompt", "experience_memory", "workflow_search"])
def test_without_practice_tasks_the_greedy_answers_stay(name: str) -> None:
    policy = Policy(lambda asked: "right")
    answers, _ = refine(name, policy, {"3+4": "greedy"}, _VALUES)
    assert (answers, policy.chats) == ({"3+4": "greedy"}, [])


def test_opro_shows_the_scores_in_ascending_order() -> None:
    def say(asked: str) -> str:
        return "right" if "step by step" in asked and "scores" not in asked else _say(asked)

    policy = Policy(say)
    refine("opro", policy, {"3+4": "wrong"}, _VALUES, practice=_PRACTICE, steps=1, proposals=1)
    meta = next(chat[-1]["content"] for chat in policy.chats if "ascending" in chat[-1]["content"])
    assert "text: (nothing)\nscore: 0\n\ntext: Let's think step by step.\nscore: 100" in meta


@pytest.mark.parametrize(
    ("response", "instruction"),
    [
        ("[Count slowly.] or [not]", "Count slowly."),
        ("\n  Add   the units.\nThen the tens.", "Add the units."),
        ("[ ]", None),
        ("", None),
        ("x" * 301, None),
    ],
)
def test_the_instruction_in_a_response(response: str, instruction: str | None) -> None:
    assert new_instruction(response) == instruction


def test_roulette_is_in_proportion_and_even_where_nothing_scored() -> None:
    assert roulette([0.6, 0.2, 0.2]) == pytest.approx([0.6, 0.2, 0.2])
    assert roulette([0.0, 0.0]) == [0.5, 0.5]


def _task(prompt: str, id_: str = "t") -> Task:
    return Task(id_, "sums", "file", 1.0, prompt, "0", "exact", None, "file")


def test_the_most_alike_memories_of_the_skill_are_recalled_and_never_the_task_itself() -> None:
    memories = [
        Memory("a", "sums", "add 3 and 4", "7"),
        Memory("b", "sums", "add 3 and 5", "8"),
        Memory("c", "sums", "take 1 from 2", "1"),
        Memory("d", "products", "add 3 and 4", "12"),
    ]
    assert [m.task_id for m in recall(_task("add 3 and 4"), memories, 2)] == ["a", "b"]
    assert [m.task_id for m in recall(_task("add 3 and 4", "a"), memories, 2)] == ["b", "c"]


def test_a_memory_is_retired_only_when_its_successes_are_proven_too_few() -> None:
    shown = {f"t{n}": ["bad"] if n < 20 else ["rare"] for n in range(21)}
    failing = dict.fromkeys(shown, False)
    assert retired(shown, failing, base=0.5) == {"bad"}  # 0 of 20; 0 of 1 proves nothing
    assert retired(shown, dict.fromkeys(shown, True), base=0.5) == set()


def test_memories_stand_before_the_question_the_most_alike_last() -> None:
    practice = [f"{n} + 0" for n in range(30)]

    policy = Policy(lambda asked: "right")
    solved = {"1 + 0": "one", "2 + 0": "two"}
    answers, told = refine("experience_memory", policy, {"9 + 9": "greedy"}, _VALUES, practice, solved)
    assert answers == {"9 + 9": "right"}
    assert [turn["content"] for turn in policy.chats[-1]] == ["2 + 0", "two", "1 + 0", "one", "9 + 9"]
    assert told["9 + 9"].agreement == 1


def test_memories_that_mislead_are_not_shown() -> None:
    class Misled(Policy):
        def sample(self, requests, sampling, *, generation, label):  # type: ignore[no-untyped-def]
            self._say = lambda asked: "wrong" if label != "practising without memory" else "right"
            return super().sample(requests, sampling, generation=generation, label=label)

    practice = [f"{n} + 0" for n in range(30)]
    policy = Misled(lambda asked: "")
    answers, _ = refine("experience_memory", policy, {"9 + 9": "greedy"}, _VALUES, practice, {"1 + 0": "one"})
    assert answers == {"9 + 9": "greedy"}


def test_chances_of_parents_mix_chance_and_score() -> None:
    chances = parent_chances([0.5, 0.4], exploration=0.2, sharpness=10)
    first = 1 / (1 + math.exp(-1))
    assert chances == pytest.approx([0.1 + 0.8 * first, 0.1 + 0.8 * (1 - first)])


def test_neighbours_are_one_change_away() -> None:
    assert neighbours((), ["a", "b"], longest=2) == [("a",), ("b",)]
    assert neighbours(("a",), ["a", "b"], longest=2) == [("a", "a"), ("a", "b"), (), ("b",)]
    assert neighbours(("a", "b"), ["a", "b"], longest=2) == [("b",), ("a",), ("b", "b"), ("a", "a")]


def test_the_workflow_that_helps_practice_is_used_and_costs_what_it_took() -> None:
    def say(asked: str) -> str:
        if asked.startswith("Check"):
            return "It is wrong."
        return "right" if asked.startswith("Answer the question again") else "wrong"

    policy = Policy(say)
    answers, told = refine(
        "workflow_search",
        policy,
        {"3+4": "wrong"},
        _VALUES,
        _PRACTICE,
        operators=("self_refine", "plan_and_solve"),
        iterations=6,
        longest=1,
    )
    assert answers == {"3+4": "right"}
    assert told["3+4"].agreement == 1
    assert told["3+4"].tokens > 2 * 11 * 2


def test_of_workflows_that_score_alike_the_cheapest_is_used() -> None:
    answers, told = refine(
        "workflow_search", Policy(lambda asked: "right"), {"3+4": "right"}, _VALUES, _PRACTICE
    )
    assert answers == {"3+4": "right"}
    assert told["3+4"].agreement == 1


@pytest.mark.parametrize("operator", ["workflow_search", "no_such_method"])
def test_operators_that_cannot_be_are_refused(operator: str) -> None:
    with pytest.raises(ValidationError, match=operator):
        WorkflowSearch(operators=(operator,))
