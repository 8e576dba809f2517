"""A part of a recipe, put over a recipe: what a branch does."""

from pathlib import Path
from typing import Any

import pytest
from home import GENTLE, tiny_campaign
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimp_dagster.campaign import Campaign, changes_text, parse_campaign
from selfimp_dagster.errors import SelfimpError

_SELECTION = [
    {"method": "exact_duplicates"},
    {"method": "near_duplicates"},
    {"method": "decontamination", "ngram": 5},
]


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return parse_campaign(tiny_campaign(Path("/nowhere")), where="tiny")


def test_a_choice_is_changed_field_by_field(campaign: Campaign) -> None:
    changes = {"optimization": {"epochs": 1}, "acquisition": {"sampling": {"temperature": 0.5}}}
    changed = campaign.with_recipe(changes, where="here")
    assert changed.recipe.optimization.parameters == {"learning_rate": GENTLE, "epochs": 1, "batch_size": 8}
    assert changed.recipe.acquisition.parameters["sampling"] == {"max_new_tokens": 4, "temperature": 0.5}
    assert changed.recipe.refinement == campaign.recipe.refinement
    assert changed.model_copy(update={"recipe": campaign.recipe}) == campaign, "only the recipe changes"


def test_the_selection_is_replaced_whole(campaign: Campaign) -> None:
    changed = campaign.with_recipe({"selection": _SELECTION}, where="here")
    assert [choice.method for choice in changed.recipe.selection] == [
        "exact_duplicates",
        "near_duplicates",
        "decontamination",
    ]


def test_no_changes_are_the_same_campaign(campaign: Campaign) -> None:
    assert campaign.with_recipe({}, where="here") == campaign


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimization": {"learning_rat": 1}}, "optimization: learning_rat: Extra inputs are not permitted"),
        ({"optimization": {"learning_rate": "fast"}}, "optimization: learning_rate: Input should be a valid"),
        ({"optimisation": {"epochs": 1}}, "recipe.optimisation: Extra inputs are not permitted"),
        ({"optimization": {"method": "magic"}}, "optimization: there is no optimization method 'magic'"),
        ({"optimization": 5}, "recipe.optimization: Input should be a valid"),
        ({"selection": {"3": {"threshold": 1}}}, "recipe.selection: Input should be a valid tuple"),
        ({"selection": [{"method": "verified"}]}, "selection: "),
        ({"minimum_rows": 0}, "recipe.minimum_rows: Input should be greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_named(campaign: Campaign, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SelfimpError) as caught:
        campaign.with_recipe(changes, where="tiny/0002 incumbent_policy")
    assert said in caught.value.what
    assert caught.value.where == "tiny/0002 incumbent_policy"


def test_another_method_replaces_a_choice_whole(campaign: Campaign) -> None:
    join = campaign.recipe.joined_changes
    other = {"optimization": {"method": "another", "beta": 0.1}}
    assert join({"optimization": {"epochs": 1}}, other) == other
    back = {"optimization": {"method": "sft", "epochs": 2}}
    assert join(other, back) == back
    assert join({"optimization": {"epochs": 1}}, {"optimization": {"method": "sft", "batch_size": 4}}) == {
        "optimization": {"epochs": 1, "method": "sft", "batch_size": 4}
    }


_choices = st.dictionaries(
    st.sampled_from(["epochs", "batch_size", "learning_rate"]), st.integers(1, 4), max_size=3
)
_changes = st.fixed_dictionaries(
    {},
    optional={
        "optimization": _choices | _choices.map(lambda choice: {**choice, "method": "another"}),
        "acquisition": st.fixed_dictionaries({}, optional={"sampling": _choices}),
        "selection": st.just(_SELECTION),
        "minimum_rows": st.integers(1, 4),
    },
)


@settings(max_examples=50)
@given(earlier=_changes, later=_changes)
def test_what_a_line_changed_is_not_changed_by_changing_it_so_again(
    campaign: Campaign, earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    joined = campaign.recipe.joined_changes(earlier, later)
    assert campaign.recipe.joined_changes(earlier, joined) == joined
    assert campaign.recipe.joined_changes(joined, {}) == joined
    assert campaign.recipe.joined_changes({}, later) == later


@settings(max_examples=50)
@given(earlier=_changes, later=_changes)
def test_changes_one_after_the_other_are_the_joined_changes(
    campaign: Campaign, earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    join, recipe = campaign.recipe.joined_changes, campaign.recipe.model_dump(mode="json")
    assert join(join(recipe, earlier), later) == join(recipe, join(earlier, later))


def test_changes_are_told_as_they_are_set() -> None:
    changes = {"optimization": {"learning_rate": 5e-5}, "selection": _SELECTION, "minimum_rows": 16}
    assert changes_text(changes) == (
        "optimization.learning_rate=5e-05, "
        "selection=exact_duplicates > near_duplicates > decontamination(ngram=5), minimum_rows=16"
    )
    assert changes_text({}) == ""
