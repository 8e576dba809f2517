"""Curricula: their published formulas by hand, and what they draw."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.curriculum.adarft import AdarftParameters, AdarftState, moved_target
from selfimp_dagster.lifecycle.curriculum.adastar import AdastarState, Standing, after_round, in_turn
from selfimp_dagster.lifecycle.curriculum.advantages import absolute_advantages, softmax
from selfimp_dagster.lifecycle.curriculum.dump import DumpState, upper_bounds
from selfimp_dagster.lifecycle.curriculum.lessons import OUTCOMES, CurriculumContext, Lessons
from selfimp_dagster.lifecycle.curriculum.sec import SecState, moved
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame
from selfimp_dagster.registry import all_methods, find_method

_LEVELS = {"easy": 1.0, "medium": 2.0, "hard": 3.0}


def _task(task_id: str, skill: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "pool": "train",
        "skill": skill,
        "suite": "test",
        "difficulty": _LEVELS[skill],
        "prompt": task_id,
        "answer": None,
        "verifier": "exact",
        "entry": None,
        "source": "test",
        "parent_ids": [],
        "generation_depth": 0,
    }


def _draw(size: int, weights: Mapping[str, float]) -> pl.DataFrame:
    total = sum(weights.values())
    counts = {skill: round(size * weight / total) for skill, weight in weights.items()}
    return frame([_task(f"{skill} {n}", skill) for skill in counts for n in range(counts[skill])], TASKS)


def _context(
    earned: Mapping[tuple[str, str], Sequence[float]] | None = None, state: Any = None, **changes: Any
) -> CurriculumContext:
    """`earned` are the values of the parent's samples, by task and skill."""
    earned = earned or {}
    samples = [(task, f"{task} {n}", v) for (task, _), values in earned.items() for n, v in enumerate(values)]
    nothing = dict.fromkeys(SAMPLES)
    rewards = [
        {"sample_id": s, "reward": "answer", "kind": "V", "value": v, "confidence": 1.0, "evidence": ""}
        for _, s, v in samples
    ]
    given_all = {
        "draw": _draw,
        "dataset": lambda size: _draw(size, {"easy": 0.5, "hard": 0.5}),
        "skill_weights": {"easy": 0.5, "hard": 0.5},
        "tasks": frame([_task(task, skill) for task, skill in earned], TASKS),
        "samples": frame([nothing | {"sample_id": s, "task_id": t} for t, s, _ in samples], SAMPLES),
        "rewards": frame(rewards, REWARDS),
        "seed": 0,
        "state": state,
    }
    return CurriculumContext(**given_all | changes)


def _plan(name: str, context: CurriculumContext, **parameters: Any) -> Lessons:
    method = find_method("curriculum", name)
    planned: Lessons = method.function(context, method.parameters.model_validate(parameters))
    return planned


def test_advantages_are_distances_from_the_tasks_mean():
    rows = [
        ("a", "easy", 1.0),
        ("a", "easy", 0.0),
        ("b", "hard", 1.0),
        ("b", "hard", 1.0),
        ("c", "hard", 1.0),
    ]
    outcomes = frame(
        [
            {"sample_id": str(n), "task_id": task, "skill": skill, "difficulty": 1.0, "value": value}
            for n, (task, skill, value) in enumerate(rows)
        ],
        OUTCOMES,
    )
    assert absolute_advantages(outcomes) == {
        "easy": pytest.approx([math.sqrt(0.5)] * 2, abs=1e-5),
        "hard": [0.0, 0.0],
    }
    with pytest.raises(SelfimpError, match="every task of the parent round has one sample"):
        absolute_advantages(outcomes.filter(task_id="c"))


def test_upper_bounds_of_dump():
    bounds = upper_bounds({"easy": 0.2, "hard": 0.5}, {"easy": 9, "hard": 1})
    assert bounds == {
        "easy": pytest.approx(0.2 + math.sqrt(2 * math.log(11) / 10)),
        "hard": pytest.approx(0.5 + math.sqrt(2 * math.log(11) / 2)),
    }
    assert upper_bounds({"new": 0.0}, {"new": 0}) == {"new": 0.0}


def test_dump_draws_what_teaches_and_keeps_a_window():
    earned = {("a", "easy"): [1.0, 1.0], ("b", "hard"): [1.0, 0.0]}
    planned = _plan("dump", _context(earned), window=3, temperature=0.5)
    distance = math.sqrt(0.5)
    bonus = math.sqrt(2 * math.log(5) / 3)
    shares = softmax({"easy": bonus, "hard": distance + bonus}, 0.5)
    assert planned.skill_weights == pytest.approx(shares, abs=1e-5)
    assert isinstance(planned.state, DumpState)
    assert planned.state.samples == {"easy": 2, "hard": 2}
    again = _plan("dump", _context(earned, state=planned.state), window=3)
    assert isinstance(again.state, DumpState)
    assert again.state.samples == {"easy": 4, "hard": 4}
    assert len(again.state.latest["hard"]) == 3


def test_sec_moves_by_td_and_draws_by_softmax():
    assert moved(0.2, 0.6, 0.5) == pytest.approx(0.4)
    earned = {("b", "hard"): [1.0, 0.0]}
    planned = _plan("sec", _context(earned, state=SecState(values={"easy": 0.3, "hard": 0.1})), step=0.25)
    hard = 0.25 * math.sqrt(0.5) + 0.75 * 0.1
    assert isinstance(planned.state, SecState)
    assert planned.state.values == pytest.approx({"easy": 0.3, "hard": hard}, abs=1e-5)
    odds = planned.skill_weights["hard"] / planned.skill_weights["easy"]
    assert odds == pytest.approx(math.exp(hard - 0.3), abs=1e-4)


@pytest.mark.parametrize("name", ["dump", "sec"])
def test_a_bandit_multiplies_the_weights_that_it_is_given(name):
    even = _plan(name, _context())
    assert even.skill_weights == pytest.approx({"easy": 0.5, "hard": 0.5})
    directed = _plan(name, _context(skill_weights={"easy": 0.2, "hard": 0.8}))
    assert directed.skill_weights == pytest.approx({"easy": 0.2, "hard": 0.8})


def test_the_step_of_adarft():
    paper = AdarftParameters(easiest=0, hardest=100)  # a step of 50
    assert moved_target(10, 0.8, paper) == pytest.approx(10 + 50 * math.tanh(2 * 0.3))
    assert moved_target(10, 0.5, paper) == 10
    assert moved_target(10, 0.0, paper) == 0
    assert moved_target(90, 1.0, paper) == 100
    with pytest.raises(ValidationError, match="easiest 3 is not below hardest 3"):
        AdarftParameters(easiest=3, hardest=3)


def test_adarft_draws_the_tasks_nearest_to_its_target():
    weights = dict.fromkeys(_LEVELS, 1.0)
    first = _plan("adarft", _context(skill_weights=weights), easiest=1, hardest=3)
    assert set(first.draw(6, weights)["skill"]) == {"easy"}
    earned = {("a", "easy"): [1.0, 1.0]}
    second = _plan("adarft", _context(earned, state=first.state, skill_weights=weights), easiest=1, hardest=3)
    assert second.state == AdarftState(target=1 + math.tanh(1))
    drawn = second.draw(12, weights)
    assert set(drawn["skill"]) == {"medium"}
    assert drawn.height == 12
    assert dict(drawn.schema) == dict(TASKS)


def test_equally_hard_tasks_of_all_skills_are_drawn():
    target = AdarftState(target=2.0)
    earned = {("a", "easy"): [1.0, 0.0]}
    drawn = _plan("adarft", _context(earned, state=target), easiest=0, hardest=4).draw(
        40, {"easy": 1, "hard": 1}
    )
    assert set(drawn["skill"]) == {"easy", "hard"}, "both are 1 away from the target"


def test_adastar_asks_stale_tasks_first_and_of_these_the_hardest():
    state = AdastarState(
        number=3,
        standings={
            "a": Standing(asked=2, right=0.0),
            "b": Standing(asked=1, right=0.9),
            "c": Standing(asked=1, right=0.1),
        },
    )
    assert in_turn(["a", "b", "c", "new"], state) == ["new", "c", "b", "a"]


def test_adastar_notes_as_many_as_the_policy_is_strong():
    state = AdastarState(number=1, standings={})
    right = {"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.5}  # accuracy 0.75: floor(4 * 0.5625) = 2
    after = after_round(state, right)
    assert after.number == 2
    assert after.standings == {"a": Standing(asked=1, right=1.0), "b": Standing(asked=1, right=0.5)}
    assert in_turn(list(right), after) == ["c", "d", "b", "a"]


@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1), min_size=1), st.integers(1, 4))
def test_a_perfect_policy_notes_all_and_a_hopeless_one_none(right, rounds):
    state = AdastarState(number=rounds, standings={})
    assert set(after_round(state, dict.fromkeys(right, 1.0)).standings) == set(right)
    assert not after_round(state, dict.fromkeys(right, 0.0)).standings
    assert set(after_round(state, right).standings) <= set(right)


def test_adastar_draws_from_the_same_tasks_in_every_round():
    first = _plan("adastar", _context(), dataset=8)
    drawn = first.draw(4, {"easy": 1.0, "hard": 9.0})
    assert drawn["task_id"].to_list() == ["easy 0", "easy 1", "easy 2", "easy 3"]
    earned = {(task, "easy"): [1.0, 1.0] for task in drawn["task_id"]}
    second = _plan("adastar", _context(earned, state=first.state), dataset=8)
    assert second.draw(4, {})["task_id"].to_list() == ["hard 0", "hard 1", "hard 2", "hard 3"]


@pytest.mark.parametrize("name", ["adarft", "adastar", "dump", "sec"])
def test_a_reward_that_the_parent_lacks_is_named(name):
    state = {"adarft": AdarftState(target=1), "adastar": AdastarState(number=1, standings={})}.get(name)
    given_levels = {"easiest": 1, "hardest": 3} if name == "adarft" else {}
    context = _context({("a", "easy"): [1.0, 0.0]}, state=state)
    with pytest.raises(SelfimpError, match="no sample of the parent round has a reward 'grade'"):
        _plan(name, context, reward="grade", **given_levels)


def test_every_curriculum_says_what_it_does_where_it_comes_from_and_what_it_leaves():
    methods = [m for m in all_methods() if m.stage == "curriculum"]
    assert {m.name for m in methods} == {"adarft", "adastar", "dump", "sec"}
    for m in methods:
        assert all([m.summary, m.section.startswith("3"), m.paper, m.state])
