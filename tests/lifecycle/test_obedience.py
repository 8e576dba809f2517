"""What each directive changes in a recipe, and what it says where it can change nothing."""

from typing import Any

import pytest
from home import file_skill, tiny_campaign

from selfimp_dagster.campaign import Campaign, MethodChoice, Recipe, parse_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import (
    Distil,
    Halt,
    MoveDifficulty,
    RecentreBand,
    Replay,
    RequireVerification,
    ShiftBudget,
    SmallerStep,
    StopRefining,
    SwitchRecipe,
)
from selfimp_dagster.lifecycle.fates import fates
from selfimp_dagster.lifecycle.obedience import (
    Mix,
    Obeyed,
    obey_acquisition,
    obey_optimization,
    obey_refinement,
    obey_selection,
    obey_start,
)

_STEPS = [{"method": name} for name in ("decontamination", "exact_duplicates", "near_duplicates")]


def _recipe(*selection: dict[str, Any], **changes: Any) -> Recipe:
    data = {
        "acquisition": {"method": "policy_sampling"},
        "selection": [*selection, *_STEPS],
        "optimization": {"method": "sft", "learning_rate": 1e-4, "replay": 0.2},
        "refinement": {"method": "self_consistency", "tasks": 8},
    }
    return Recipe.model_validate({**data, **changes})


def test_acquisition_draws_the_directed_mix() -> None:
    before = Mix({"sums": 0.5, "gcd": 0.5}, {})
    shift = ShiftBudget(weights={"sums": 0.2, "gcd": 0.8}, signal="s")
    harder = MoveDifficulty(hardest={"gcd": 3, "sums": 2}, hardest_before={"gcd": 2, "sums": 2}, signal="s")
    mix, told = obey_acquisition(before, [shift, harder, Replay(more=1, signal="s")])
    assert mix == Mix({"sums": 0.2, "gcd": 0.8}, {"gcd": 3, "sums": 2})
    assert [said.sentence for said in told] == [
        "weights.gcd 0.5 to 0.8; weights.sums 0.5 to 0.2",
        "hardest.gcd 2 to 3",
    ]
    assert obey_acquisition(before, []) == (before, [])


@pytest.mark.parametrize(
    ("band", "move", "moved"),
    [
        ((0.1, 0.9), 0.1, (0.2, 1.0)),
        ((0.1, 0.9), -0.1, (0.0, 0.8)),
        ((0.1, 0.9), 0.3, (0.4, 1.0)),
        ((0.1, 0.9), -2.0, (0.0, 0.0)),
    ],
)
def test_the_band_moves_and_stays_between_0_and_1(
    band: tuple[float, float], move: float, moved: tuple[float, float]
) -> None:
    recipe = _recipe({"method": "difficulty_band", "low": band[0], "high": band[1]})
    chain, (said,) = obey_selection(recipe, [RecentreBand(move=move, signal="s")])
    assert (chain[0].parameters["low"], chain[0].parameters["high"]) == moved
    assert said.done
    assert chain[1:] == recipe.selection[1:]


def test_what_is_verified_is_required_or_more_confidence() -> None:
    required = [RequireVerification(more_confidence=0.15, signal="s")]
    votes = {"method": "verified", "reward": "majority_vote", "minimum_confidence": 0.8}
    blind = _recipe(votes, rewards=[{"method": "majority_vote"}])
    chain, (said,) = obey_selection(blind, required)
    assert chain[0].parameters["minimum_confidence"] == 0.95
    assert said.sentence == "verified.minimum_confidence 0.8 to 0.95"
    seeing = _recipe(votes, rewards=[{"method": "majority_vote"}, {"method": "answer"}])
    chain, (said,) = obey_selection(seeing, required)
    assert chain[0].parameters == {"reward": "answer", "minimum_confidence": 0.8}
    assert said.sentence == "verified.reward majority_vote to answer"
    for nothing in (_recipe({"method": "verified"}), _recipe()):
        chain, (said,) = obey_selection(nothing, required)
        assert chain == nothing.selection
        assert not said.done
        assert said.sentence.startswith("not applicable: no step")


def test_optimization_replays_more_and_takes_smaller_steps() -> None:
    directives = [Replay(more=0.5, signal="s"), SmallerStep(factor=0.25, signal="s")]
    choice, told = obey_optimization(_recipe().optimization, directives, {"epochs": 1}, earlier_rows=9)
    assert choice.parameters == {"replay": 0.7, "learning_rate": 2.5e-5, "epochs": 1}
    assert [said.sentence for said in told] == [
        "sft.replay 0.2 to 0.7",
        "sft.learning_rate 0.0001 to 2.5e-05",
    ]


def test_what_is_set_by_hand_wins_and_is_told() -> None:
    directive = SmallerStep(factor=0.5, signal="s")
    choice, (said,) = obey_optimization(_recipe().optimization, [directive], {"learning_rate": 3e-4}, 0)
    assert choice.parameters["learning_rate"] == 3e-4
    assert (said.done, said.sentence) == (False, "learning_rate set by hand")
    refined, (said,) = obey_refinement(_recipe(), [StopRefining(signal="s")], {"tasks": 5})
    assert refined.parameters["tasks"] == 5
    assert said.overridden == ("tasks",)


@pytest.mark.parametrize(
    ("choice", "rows", "reason"),
    [
        ({"start_from": "base"}, 9, "all rows of all rounds are trained on already"),
        ({}, 0, "no earlier round of the line selected rows"),
    ],
)
def test_replay_says_why_it_cannot(choice: dict[str, Any], rows: int, reason: str) -> None:
    before = MethodChoice(method="sft", **choice)
    after, (said,) = obey_optimization(before, [Replay(more=1, signal="s")], {}, rows)
    assert after == before
    assert (said.done, said.not_applicable) == (False, reason)


def test_refinement_answers_more_tasks_or_none() -> None:
    more, (said,) = obey_refinement(_recipe(), [Distil(factor=2, signal="s")], {})
    assert more.parameters["tasks"] == 16
    assert said.sentence == "self_consistency.tasks 8 to 16"
    none, _ = obey_refinement(_recipe(), [StopRefining(signal="s")], {})
    assert none.parameters["tasks"] == 0
    deaf = _recipe(acquisition={"method": "policy_sampling", "refined_outputs": False})
    same, (said,) = obey_refinement(deaf, [Distil(factor=2, signal="s")], {})
    assert same == deaf.refinement
    assert said.not_applicable == "policy_sampling takes no refined outputs"


def _campaign(**strategies: Any) -> Campaign:
    data = tiny_campaign("a model", "tiny") | {"strategies": strategies}  # type: ignore[arg-type]
    return parse_campaign(data | {"skills": {"learning": file_skill("learn.jsonl")}}, "tiny.yaml")


def test_the_start_of_a_round_follows_a_strategy_beneath_what_people_changed() -> None:
    campaign = _campaign(gentle={"optimization": {"learning_rate": 1e-6, "epochs": 1}})
    switch = SwitchRecipe(strategy="gentle", signal="s")
    (said,) = obey_start(campaign, {"optimization": {"epochs": 2}}, None, None, [switch])
    assert said.sentence == (
        "recipe the campaign's own recipe to the recipe gentle; optimization.epochs set by hand"
    )
    (said,) = obey_start(campaign, {}, "gentle", None, [switch])
    assert (said.done, said.sentence) == (True, "as it was")
    (said,) = obey_start(campaign, {}, None, "Ann approved.", [Halt(signal="s")])
    assert said.sentence == "approved None to Ann approved."


def test_a_strategy_that_is_no_recipe_is_refused_with_its_name() -> None:
    with pytest.raises(SelfimpError, match="learning_rat") as error:
        _campaign(typo={"optimization": {"learning_rat": 1}})
    assert error.value.where == "tiny.yaml: strategies.typo"


def test_a_directive_that_nobody_obeyed_is_visible() -> None:
    replay = Replay(more=1, signal="s")
    (unknown,) = fates([replay], {}, None, None)
    assert unknown.obeyed is None
    (silent,) = fates([replay], {"checkpoint": []}, None, None)
    assert silent.obeyed == Obeyed(directive="replay", not_applicable="checkpoint says nothing of it")
    assert silent.row["obeyed"] is False
