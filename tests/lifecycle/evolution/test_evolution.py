"""Whose child comes next, what it may change, and that nothing but the space is ever proposed."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
from home import tiny_campaign
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from selfimp_dagster.campaign import Campaign, parse_campaign
from selfimp_dagster.engines.chat import Reply
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evolution.archive import Clade, Tried, choose_parent, clades
from selfimp_dagster.lifecycle.evolution.proposal import propose, read_reply, written_out
from selfimp_dagster.lifecycle.evolution.space import Blend, Choice, Gene, Range, change, value_at
from selfimp_dagster.records import derive_seed

# 0 -> 1 (passed) -> 2 (failed), 3 (passed) -> 5 (failed); 0 -> 4 (failed)
ARCHIVE = [
    Tried("0", None, False),
    Tried("1", "0", True),
    Tried("2", "1", False),
    Tried("3", "1", True),
    Tried("4", "0", False),
    Tried("5", "3", False),
]

SPACE: dict[str, Gene] = {
    "optimization.learning_rate": Range(kind="range", low=1e-6, high=1e-3, scale="log"),
    "acquisition.samples_per_task": Range(kind="range", low=1, high=8, whole=True),
    "optimization.losses": Blend(kind="blend", of=("sigmoid", "ipo", "discopop")),
    "preset": Choice(kind="choice", values=("star", "scpo")),
}


def test_a_clade_is_a_recipe_with_all_that_descend_from_it() -> None:
    assert clades(ARCHIVE) == {
        "0": Clade(2, 4),
        "1": Clade(2, 2),
        "2": Clade(0, 1),
        "3": Clade(1, 1),
        "4": Clade(0, 1),
        "5": Clade(0, 1),
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_parent_has_the_largest_draw_of_its_clade(seed: int) -> None:
    # 5 of 10 children are there, so draws are twice as sharp; 2, 4 and 5 failed and have no children.
    lot = random.Random(derive_seed(seed, "evolution", "parent", 6))
    draws = {"0": lot.betavariate(6, 10), "1": lot.betavariate(6, 6), "3": lot.betavariate(4, 4)}
    assert choose_parent(ARCHIVE, budget=10, seed=seed) == max(draws, key=draws.__getitem__)


def test_a_recipe_is_chosen_for_its_descendants_and_not_for_itself() -> None:
    # a and b both passed; all children of a failed, all of b passed.
    tried = [Tried("0", None, False), Tried("a", "0", True), Tried("b", "0", True)]
    tried += [Tried(f"a{n}", "a", False) for n in range(30)] + [Tried(f"b{n}", "b", True) for n in range(30)]
    chosen = [choose_parent(tried, budget=1000, seed=seed) for seed in range(200)]
    assert "a" not in chosen
    assert chosen.count("b") > 0
    assert all(name.startswith("b") for name in chosen)


def test_the_choice_grows_careful_as_the_budget_ends() -> None:
    tried = [Tried("0", None, True), Tried("1", "0", True), Tried("2", "1", True), Tried("3", "0", False)]
    # Of 0: 3 passed, 1 not; of 1: 2 and none, which has the larger mean.
    bold, careful = (
        [choose_parent(tried, budget, seed).count("0") for seed in range(400)] for budget in (1000, 4)
    )
    assert sum(careful) < sum(bold)


def test_the_first_recipe_is_eligible_though_it_failed_and_others_are_not() -> None:
    assert choose_parent([Tried("0", None, False), Tried("1", "0", False)], budget=3, seed=0) == "0"


@pytest.mark.parametrize(
    ("gene", "good", "bad"),
    [
        (Choice(kind="choice", values=(1, "a", True)), [1, "a", True], [2, "1", 1.0, False, None]),
        (
            Range(kind="range", low=1, high=4, whole=True),
            [1, 4, 2.0],
            [0, 5, 1.5, "2", True, math.nan, math.inf],
        ),
        (Range(kind="range", low=0.1, high=2), [0.1, 1, 2], [0, 2.1, "1", None, math.nan]),
        (
            Blend(kind="blend", of=("x", "y")),
            [{"x": 1}, {"x": 0.25, "y": 0.75}],
            [{"x": 0.3, "y": 0.7}, {"x": 1, "z": 0}, {"x": 0.5}, {"x": 2, "y": -1}, "x", {}, {"x": math.nan}],
        ),
    ],
)
def test_a_value_is_of_its_type_or_refused(gene: Gene, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        gene.read(value)
    for value in bad:
        with pytest.raises(ValueError, match=r"is not|is no mapping"):
            gene.read(value)


@given(st.integers(0, 2**32), st.sampled_from(sorted(SPACE)))
def test_a_mutation_is_another_value_of_the_space(seed: int, field: str) -> None:
    gene, lot = SPACE[field], random.Random(seed)
    value = None
    for _ in range(5):
        found = gene.other(value, lot)
        assert gene.read(found) == found != value
        value = found


def test_a_mutation_of_a_blend_moves_one_step_of_weight() -> None:
    gene = Blend(kind="blend", of=("x", "y", "z"))
    for seed in range(20):
        found = gene.other({"x": 0.5, "y": 0.5}, random.Random(seed))
        moved = sorted(found[name] - {"x": 0.5, "y": 0.5, "z": 0.0}[name] for name in found)
        assert moved in ([-0.25, 0.0, 0.25], [-0.25, 0.25, 0.0])


@pytest.mark.parametrize(
    "gene",
    [
        {"kind": "range", "low": 2, "high": 1},
        {"kind": "range", "low": 0, "high": 1, "scale": "log"},
        {"kind": "range", "low": 0.5, "high": 4, "whole": True},
        {"kind": "choice", "values": [1]},
        {"kind": "blend", "of": ["x"]},
        {"kind": "code", "source": "import os"},
    ],
)
def test_a_space_that_is_none_is_refused(gene: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Gene).validate_python(gene)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("optimization.learning_rate = 5e-5", ("optimization.learning_rate", 5e-5)),
        ("I would try:\n- `acquisition.samples_per_task`: 4", ("acquisition.samples_per_task", 4)),
        (
            "optimization.losses = {sigmoid: 0.5, ipo: 0.5}",
            ("optimization.losses", {"sigmoid": 0.5, "ipo": 0.5, "discopop": 0.0}),
        ),
        ("preset = scpo", ("preset", "scpo")),
    ],
)
def test_a_reply_proposes_a_value_of_the_space(text: str, read: tuple[str, Any]) -> None:
    field, value, problem = read_reply(Reply("", text), SPACE)
    assert (field, value, problem) == (*read, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Use a larger learning rate.",
        "optimization.learning_rate = 5",
        "optimization.learning_rate = fast",
        "optimization.learning_rate = __import__('os').system('true')",
        "optimization.losses = lambda r: r",
        "optimization.losses = !!python/object/apply:os.system ['true']",
        "optimization.losses = {sigmoid: 0.5",
        "promotion.alpha = 1",
        "preset = magic",
        "learning_rate = 1e-5",
        "preset = " + "a" * 100_000,
    ],
)
def test_any_other_reply_is_a_reason_and_nothing_else(text: str) -> None:
    field, value, problem = read_reply(Reply("", text), SPACE)
    assert (field, value) == ("", None)
    assert problem
    assert len(problem) < 400


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    data = tiny_campaign(Path("/nowhere"))
    data["evolution"] = {
        "space": {field: gene.model_dump() for field, gene in SPACE.items()},
        "proposer": {"source": "base"},
    }
    return parse_campaign(data, where="tiny")


def test_a_model_proposes_and_what_it_says_besides_is_recorded(campaign: Campaign) -> None:
    assert campaign.evolution is not None
    replies = [
        Reply("", "make it better"),
        Reply("", "optimization.losses = {ipo: 1}"),  # the campaign's update is sft, which has no losses
        Reply("", "optimization.learning_rate = 1e-4"),
    ]
    asked: list[str] = []

    def ask(questions: Any) -> list[Reply]:
        asked.extend(question.messages[0]["content"] for question in questions)
        return replies

    proposal = propose("tiny/0000", campaign, [], campaign.evolution, 0, "optimization.epochs=1: ...", ask)
    assert proposal.changes == {"optimization": {"learning_rate": 1e-4}}
    assert proposal.proposed_by == "the base model"
    assert len(proposal.rejected) == 2
    assert "makes no recipe" in proposal.rejected[1]
    assert len(set(asked)) == 1
    assert "optimization.learning_rate: a number from 1e-06 to 0.001; now 0.0002" in asked[0]
    assert "optimization.epochs=1: ..." in asked[0]


def test_without_a_usable_reply_a_mutation_is_drawn(campaign: Campaign) -> None:
    assert campaign.evolution is not None
    proposal = propose("r", campaign, [], campaign.evolution, 0, "", lambda questions: [Reply("", "no")] * 3)
    assert proposal.proposed_by == "mutation"
    assert len(proposal.rejected) == 3
    again = propose("r", campaign, [], campaign.evolution, 0, "", lambda questions: [Reply("", "no")] * 3)
    assert again == proposal, "the same seed proposes the same"


@given(st.integers(0, 2**32))
def test_every_mutation_makes_a_recipe_that_is_new(campaign: Campaign, seed: int) -> None:
    assert campaign.evolution is not None
    first = propose("r", campaign, [], campaign.evolution, seed)
    second = propose("r", campaign, [first.changes], campaign.evolution, seed)
    assert second.changes != first.changes
    for proposal in (first, second):
        changed = campaign.with_recipe(proposal.changes, where="test")
        assert changed.recipe != campaign.recipe
        assert changed.model_copy(update={"recipe": campaign.recipe}) == campaign, "only the recipe changes"


def test_a_space_that_is_used_up_is_said(campaign: Campaign) -> None:
    assert campaign.evolution is not None
    small = campaign.evolution.model_copy(
        update={"space": {"preset": Choice(kind="choice", values=("star", "scpo"))}}
    )
    tried = [{"preset": "star"}, {"preset": "scpo"}]
    with pytest.raises(SelfimpError, match="none makes a recipe that r has no child with"):
        propose("r", campaign, tried, small, 0)


def test_a_space_names_fields_of_a_recipe() -> None:
    data = tiny_campaign(Path("/nowhere"))
    data["evolution"] = {"space": {"promotion.alpha": {"kind": "range", "low": 0.1, "high": 1}}}
    with pytest.raises(SelfimpError, match=r"a recipe has no field 'promotion\.alpha'"):
        parse_campaign(data, where="tiny")


def test_fields_are_read_and_changed_by_their_path(campaign: Campaign) -> None:
    recipe = written_out(campaign)
    assert value_at(recipe, "optimization.learning_rate") == 2e-4
    assert value_at(recipe, "optimization.replay") == 0.0, "defaults are written out"
    assert value_at(recipe, "optimization.losses") is None
    assert change("acquisition.sampling.temperature", 0.5) == {
        "acquisition": {"sampling": {"temperature": 0.5}}
    }
