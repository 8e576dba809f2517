"""Published methods by name: every preset is a recipe that can run, and a campaign may change it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from home import tiny_campaign
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from pydantic import ValidationError

from selfimp_dagster.campaign import Campaign, Recipe, campaign_schema, check_judges, parse_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.presets import Preset, all_presets, expanded, find_preset

_REWARD_KINDS = {
    "answer": "V",
    "outcome": "V",
    "consensus": "H",
    "judge": "M",
    "meta_rewarding": "M",
    "pairwise_judge": "M",
    "majority_vote": "H",
    "refined_over_first": "H",
    "r_zero": "H and V",
    "absolute_zero": "H and V",
    "spice": "H and V",
}


@cache
def schema() -> Validator:
    """The schema of campaign files, checked once."""
    found = campaign_schema()
    kind = validator_for(found)
    kind.check_schema(found)
    return kind(found)


def with_recipe(**recipe: Any) -> dict[str, Any]:
    return {**tiny_campaign(Path("/nowhere")), "recipe": recipe}


@pytest.mark.parametrize("name", all_presets())
def test_every_preset_is_a_recipe_that_a_campaign_can_name(name: str) -> None:
    data = with_recipe(preset=name, **find_preset(name).given)
    campaign = parse_campaign(data, where="tiny")
    check_judges(campaign, where="tiny")
    assert campaign.recipe == Recipe.model_validate(find_preset(name).example)
    schema().validate(data)


@pytest.mark.parametrize("name", all_presets())
def test_what_a_preset_says_of_itself_is_what_its_recipe_does(name: str) -> None:
    preset = find_preset(name)
    recipe = Recipe.model_validate(preset.example)
    first = recipe.rewards[0].method
    assert name == "spin" or _REWARD_KINDS[first] in preset.reward
    update = recipe.optimization
    updates = (
        [u["method"] for u in update.parameters["updates"]]
        if update.method == "sequence"
        else [update.method]
    )
    losses = {"restrain": "GRPO", "sft": "SFT", "dpo": "DPO", "grpo": "GRPO", "verifier": "DPO"}
    assert [losses.get(method, method.upper()) for method in updates] == preset.optimization.upper().split(
        " AND "
    )


def test_what_is_stored_says_all() -> None:
    campaign = parse_campaign(with_recipe(preset="ttrl"), where="tiny")
    stored = json.loads(campaign.model_dump_json())
    assert "preset" not in stored["recipe"]
    assert stored["recipe"]["acquisition"]["samples_per_task"] == 16
    assert Campaign.model_validate(stored) == campaign


def test_fields_beside_a_preset_change_it() -> None:
    recipe = expanded(
        {
            "preset": "star",
            "acquisition": {"rationalized": 3, "sampling": {"max_new_tokens": 4}},
            "optimization": {"method": "kto", "beta": 0.3},
            "rewards": [{"method": "majority_vote"}, {"method": "answer"}],
            "minimum_rows": 2,
        }
    )
    assert recipe["acquisition"] == {
        "method": "policy_sampling",
        "samples_per_task": 1,
        "rationalized": 3,
        "refined_outputs": False,
        "sampling": {"max_new_tokens": 4},
    }
    assert recipe["optimization"] == {"method": "kto", "beta": 0.3}
    assert [reward["method"] for reward in recipe["rewards"]] == ["majority_vote", "answer"]
    assert recipe["minimum_rows"] == 2
    assert recipe["selection"] == find_preset("star").recipe["selection"]


def test_a_preset_among_changes_takes_the_place_of_the_recipe() -> None:
    campaign = parse_campaign(tiny_campaign(Path("/nowhere")), where="tiny")
    changed = campaign.with_recipe({"preset": "scpo", "optimization": {"beta": 0.2}}, where="here")
    assert changed.recipe == Recipe.model_validate({"preset": "scpo", "optimization": {"beta": 0.2}})
    assert "sampling" not in expanded({"preset": "star"})["acquisition"], (
        "or the next line would show nothing"
    )
    assert (
        "sampling" not in campaign.with_recipe({"preset": "star"}, where="here").recipe.acquisition.parameters
    )


def test_changes_of_a_line_are_joined_across_presets() -> None:
    recipe = parse_campaign(tiny_campaign(Path("/nowhere")), where="tiny").recipe
    started = {"preset": "scpo", "optimization": {"beta": 0.2}}
    more = {"optimization": {"epochs": 1}}
    assert recipe.joined_changes(started, more) == {
        "preset": "scpo",
        "optimization": {"beta": 0.2, "epochs": 1},
    }
    same = {"optimization": {"method": "scpo", "epochs": 1}}
    assert recipe.joined_changes(started, same)["optimization"] == {
        "beta": 0.2,
        "method": "scpo",
        "epochs": 1,
    }
    other = {"optimization": {"method": "sft"}}
    assert recipe.joined_changes(started, other)["optimization"] == {"method": "sft"}
    assert recipe.joined_changes(started, {"preset": "star"}) == {"preset": "star"}


def test_a_preset_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SelfimpError, match=r"recipe: there is no preset 'magic'; choose one of: .*star"):
        parse_campaign(with_recipe(preset="magic"), where="tiny")
    campaign = parse_campaign(tiny_campaign(Path("/nowhere")), where="tiny")
    with pytest.raises(SelfimpError, match="there is no preset 7"):
        campaign.with_recipe({"preset": 7}, where="here")


@pytest.mark.parametrize(
    ("recipe", "valid"),
    [
        ({"preset": "star", "acquisition": {"rationalized": 3}}, True),
        ({"preset": "star", "acquisition": {"method": "policy_sampling", "rationalized": 3}}, True),
        ({"preset": "magic"}, False),
        ({"preset": "star", "acquisition": {"method": "policy_sampling", "rationalised": 3}}, False),
        ({"preset": "star", "optimisation": {"epochs": 1}}, False),
    ],
)
def test_the_schema_knows_presets(recipe: dict[str, Any], valid: bool) -> None:
    errors = list(schema().iter_errors(with_recipe(**recipe)))
    assert not errors if valid else errors


def test_a_judge_hears_its_own_samples_only_where_it_is_told_to() -> None:
    own = {"method": "judge", "judge": {"source": "incumbent"}}
    with pytest.raises(SelfimpError, match="has the incumbent judge the corpus"):
        parse_campaign(with_recipe(preset="self_rewarding", rewards=[own]), where="tiny")
    assert parse_campaign(
        with_recipe(preset="self_rewarding", rewards=[{**own, "own_samples": True}]), where="tiny"
    )


def test_a_preset_file_with_other_fields_is_none() -> None:
    told = find_preset("star").model_dump()
    with pytest.raises(ValidationError, match="figure"):
        Preset.model_validate({**told, "figure": 1})
