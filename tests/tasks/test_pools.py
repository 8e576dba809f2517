"""The pools never share a prompt, and a draw depends on its arguments alone."""

import json
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import TASKS
from selfimp_dagster.tasks.pools import (
    Pool,
    PoolDraw,
    Pools,
    check_disjoint,
    draw_pool,
    pool_seed,
    prompt_key,
    quotas,
    side_of,
    tasks_frame,
    tasks_from_frame,
)
from selfimp_dagster.tasks.suites import FileSource, ReasoningGymSource, TaskSource

NOWHERE = Path("no-such-folder")
SHARE = 0.4


def digits(family: str, most: int, **changes: Any) -> ReasoningGymSource:
    parameters: dict[str, Any] = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": most}
    return ReasoningGymSource(family=family, parameters=parameters, **changes)


SKILLS: dict[str, TaskSource] = {
    "sums": digits("chain_sum", 2),
    "small sums": digits("chain_sum", 1),
    "products": digits("products", 1),
}


def draw(pool: Pool, size: int, seed: int, sources: dict[str, TaskSource] = SKILLS, **more: Any) -> PoolDraw:
    return draw_pool(pool, sources, size, seed, SHARE, NOWHERE, **more)


def keys(result: PoolDraw) -> list[str]:
    return [prompt_key(task.prompt) for task in result.tasks]


@settings(max_examples=10)
@given(campaign_seed=st.integers(0, 2**40), rounds=st.lists(st.integers(0, 9999), min_size=1, max_size=3))
def test_no_prompt_is_ever_in_two_pools(campaign_seed: int, rounds: list[int]) -> None:
    drawn: dict[Pool, set[str]] = {"train": set(), "anchor": set(), "fresh": set()}
    for pool, prompts in drawn.items():
        for number in rounds:
            found = keys(draw(pool, 40, pool_seed(pool, campaign_seed, number)))
            assert len(set(found)) == len(found)
            prompts.update(found)
    assert not drawn["train"] & drawn["anchor"]
    assert not drawn["train"] & drawn["fresh"]
    assert not drawn["anchor"] & drawn["fresh"]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**62), order=st.sampled_from(list(permutations(SKILLS))))
def test_a_draw_can_be_repeated_whatever_the_order_of_the_skills(seed: int, order: tuple[str, ...]) -> None:
    assert draw("train", 20, seed) == draw("train", 20, seed, {skill: SKILLS[skill] for skill in order})


@given(prompt=st.text(), share=st.floats(0.01, 0.99))
def test_the_side_of_a_prompt_ignores_case_spacing_and_unicode_form(prompt: str, share: float) -> None:
    assert side_of(prompt, share) == side_of(f"  {prompt}\n", share) == side_of(prompt_key(prompt), share)


def test_sides_have_their_shares_and_a_larger_share_only_takes_from_training() -> None:
    prompts = [f"What is {number}?" for number in range(4000)]
    before = [side_of(prompt, 0.2) for prompt in prompts]
    after = [side_of(prompt, 0.4) for prompt in prompts]
    assert after.count("train") / 4000 == pytest.approx(0.6, abs=0.03)
    assert after.count("anchor") / 4000 == pytest.approx(0.2, abs=0.03)
    assert {(old, new) for old, new in zip(before, after, strict=True) if old != new} == {
        ("train", "anchor"),
        ("train", "fresh"),
    }


def test_the_side_is_the_same_on_every_machine() -> None:
    sides = [side_of(f"What is {number}?", 0.4) for number in range(6)]
    assert sides == ["train", "train", "train", "train", "fresh", "train"]


def test_anchor_and_guard_stay_while_train_and_fresh_change_with_the_round() -> None:
    for pool, stays in (("anchor", True), ("guard", True), ("train", False), ("fresh", False)):
        assert (pool_seed(pool, 7, 0) == pool_seed(pool, 7, 1)) is stays  # type: ignore[arg-type]
        assert pool_seed(pool, 7, 0) != pool_seed(pool, 8, 0)  # type: ignore[arg-type]


def test_a_new_anchor_set_has_another_seed_and_the_first_that_of_a_campaign_without_sets() -> None:
    pools = Pools(train=1, anchor=1, fresh=1, guard=1, anchor_rounds=3)
    sets = [pools.anchor_set(number) for number in range(8)]
    assert sets == [0, 0, 0, 1, 1, 1, 2, 2]
    seeds = [pool_seed("anchor", 7, number, sets[number]) for number in range(8)]
    assert len(set(seeds)) == 3
    assert seeds[0] == pool_seed("anchor", 7, 5)
    assert {pool_seed("guard", 7, number, sets[number]) for number in range(8)} == {pool_seed("guard", 7, 0)}
    assert {Pools(train=1, anchor=1, fresh=1, guard=1).anchor_set(number) for number in range(8)} == {0}


@given(
    weights=st.dictionaries(st.text(min_size=1), st.floats(0.01, 100), min_size=1, max_size=6),
    size=st.integers(0, 500),
)
def test_quotas_fill_the_pool_and_stay_within_one_place_of_the_share(
    weights: dict[str, float], size: int
) -> None:
    places = quotas(weights, size)
    assert sum(places.values()) == size
    for skill, weight in weights.items():
        assert abs(places[skill] - size * weight / sum(weights.values())) < 1 + 1e-9


def test_weights_set_the_shares_and_can_be_replaced() -> None:
    sources: dict[str, TaskSource] = {"a": digits("chain_sum", 3, weight=3), "b": digits("products", 3)}

    def counts(**more: Any) -> tuple[int, int]:
        skills = [task.skill for task in draw("train", 40, 1, sources, **more).tasks]
        return skills.count("a"), skills.count("b")

    assert counts() == (30, 10)
    assert counts(skill_weights={"a": 1}) == (20, 20)
    assert counts(skill_weights={"a": 0}) == (0, 40)


def test_weights_for_unknown_skills_are_refused() -> None:
    with pytest.raises(SelfimpError, match="no such skill: c"):
        draw("train", 10, 1, skill_weights={"c": 1})


def test_places_that_a_small_family_cannot_fill_go_to_the_others() -> None:
    result = draw("anchor", 60, 1, {"sums": digits("chain_sum", 2), "products": digits("products", 1)})
    of_products = sum(task.skill == "products" for task in result.tasks)
    assert 15 <= of_products <= 25
    assert len(result.tasks) == 60
    assert result.shortfall == {"products": 30 - of_products}


def test_a_pool_may_be_smaller_than_wanted_when_every_family_is_exhausted() -> None:
    result = draw("train", 500, 1, {"products": digits("products", 1)})
    assert 50 <= len(result.tasks) <= 70
    assert result.shortfall == {"products": 500 - len(result.tasks)}


def test_guard_items_are_taken_from_every_side() -> None:
    result = draw("guard", 500, 1, {"products": digits("products", 1)})
    assert {side_of(task.prompt, SHARE) for task in result.tasks} == {"train", "anchor", "fresh"}


def test_an_empty_pool_is_refused_unless_it_is_wanted(tmp_path: Path) -> None:
    prompt = next(text for text in map(str, range(100)) if side_of(text, SHARE) == "train")
    (tmp_path / "one.jsonl").write_text(
        json.dumps({"q": prompt, "a": 1}) + "\n" + json.dumps({"q": "x"}) + "\n"
    )
    sources: dict[str, TaskSource] = {
        "one": FileSource(path="one.jsonl", prompt_column="q", answer_column="a")
    }
    with pytest.raises(SelfimpError, match="belongs to the anchor pool"):
        draw_pool("anchor", sources, 5, 1, SHARE, tmp_path)
    assert draw_pool("anchor", sources, 0, 1, SHARE, tmp_path) == PoolDraw([], {})
    result = draw_pool("train", sources, 5, 1, SHARE, tmp_path)
    assert (len(result.tasks), result.shortfall, result.skipped) == (1, {"one": 4}, {"one": 1})


def test_tasks_survive_the_frame() -> None:
    tasks = draw("train", 12, 1).tasks
    table = tasks_frame(tasks, "train")
    assert table.schema == TASKS
    assert set(table["pool"]) == {"train"}
    assert tasks_from_frame(table) == tasks
    with pytest.raises(SelfimpError, match="prompt is missing"):
        tasks_from_frame(table.drop("prompt"))


@pytest.mark.parametrize(
    ("guard", "what"),
    [
        ({"sums": digits("products", 4)}, "both a skill and a guard skill"),
        ({"kept": digits("products", 1, weight=2, difficulty=3)}, "family products with the same parameters"),
        ({"kept": digits("products", 2)}, "the prompt"),
    ],
)
def test_a_guard_skill_that_is_trained_on_is_refused(guard: dict[str, TaskSource], what: str) -> None:
    with pytest.raises(SelfimpError, match="overlapping pools") as caught:
        check_disjoint(SKILLS, guard, NOWHERE)
    assert what in caught.value.what
    assert re.fullmatch(r"skills\..+ and guard\..+", caught.value.where)


def test_guard_files_may_not_share_prompts_with_files_that_are_trained_on(tmp_path: Path) -> None:
    def source(name: str, *prompts: str) -> FileSource:
        (tmp_path / name).write_text(
            "".join(json.dumps({"q": prompt, "a": "1"}) + "\n" for prompt in prompts)
        )
        return FileSource(path=name, prompt_column="q", answer_column="a")

    trained = {"trained": source("trained.jsonl", "What is 1?", "What is 2?")}
    check_disjoint(trained, {"kept": source("kept.jsonl", "What is 3?")}, tmp_path)
    with pytest.raises(SelfimpError, match="what is 2"):
        check_disjoint(trained, {"kept": source("leaky.jsonl", "what  is 2?")}, tmp_path)
    with pytest.raises(SelfimpError, match="the rows of"):
        check_disjoint(
            trained,
            {"kept": FileSource(path="./trained.jsonl", prompt_column="a", answer_column="q")},
            tmp_path,
        )


def test_guard_skills_of_another_family_are_accepted() -> None:
    check_disjoint(SKILLS, {"letters": ReasoningGymSource(family="letter_counting")}, NOWHERE)
