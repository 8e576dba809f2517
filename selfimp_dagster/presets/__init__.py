"""Presets: published methods by name, each one composition of methods of the registry (survey, Table 6).

A preset is data, a YAML file in this folder. A recipe that names one has all its choices, with what else the
recipe says put over them; what is stored of a campaign is the whole recipe.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError

FIELD = "preset"
"""The field of a recipe that names a preset."""

_SUFFIX = ".yaml"


class Preset(BaseModel):
    """One published method as a recipe.

    `generation`, `reward` and `optimization` are its triple in the survey, `deviation` is where the
    composition differs from the paper. `given` is what a campaign must give besides, as an example.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    paper: str = Field(pattern=r"^arXiv:\d{4}\.\d{5}$")
    generation: Literal["SE", "R", "I"]
    reward: Literal["H", "M", "V", "H and M", "M and V", "H and V"]
    optimization: str
    deviation: str
    recipe: dict[str, Any]
    given: dict[str, Any] = {}

    @property
    def example(self) -> dict[str, Any]:
        """The recipe with the example of what a campaign must give."""
        return joined(self.recipe, self.given, {})


@cache
def all_presets() -> dict[str, Preset]:
    """Every preset by its name, in the order of the names."""
    found = (file for file in files(__name__).iterdir() if file.name.endswith(_SUFFIX))
    read = {
        file.name.removesuffix(_SUFFIX): yaml.safe_load(file.read_text(encoding="utf-8")) for file in found
    }
    return {name: Preset.model_validate(read[name]) for name in sorted(read)}


def find_preset(name: object) -> Preset:
    """The preset of that name.

    Raises:
        SelfimpError: there is none.
    """
    presets = all_presets()
    if not isinstance(name, str) or name not in presets:
        raise SelfimpError(
            f"there is no preset {name!r}",
            where=f"recipe.{FIELD}",
            fix=f"choose one of: {', '.join(presets)} (see `selfimp presets`)",
        )
    return presets[name]


def expanded(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or changes to one, with the preset that it names written out and its own fields over it.

    Raises:
        SelfimpError: there is no such preset.
    """
    if FIELD not in recipe:
        return dict(recipe)
    own = {field: value for field, value in recipe.items() if field != FIELD}
    return joined(find_preset(recipe[FIELD]).recipe, own, {})


def joined(
    changes: Mapping[str, Any], further: Mapping[str, Any], methods: Mapping[str, str]
) -> dict[str, Any]:
    """Parts of a recipe as one, the further one over the other.

    Choices of methods are joined field by field. Where the further part names another method than the one
    that is chosen without it, it replaces that choice whole, and so does a list. `methods` are those that
    stages have where `changes` names none.
    """
    result = {**changes, **further}
    for stage in changes.keys() & further.keys():
        chosen, choice = changes[stage], further[stage]
        if isinstance(chosen, Mapping) and isinstance(choice, Mapping):
            method = chosen.get("method", methods.get(stage))
            other = choice.get("method", method) != method
            result[stage] = dict(choice) if other else merged(chosen, choice)
    return result


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the overrides in place, those of nested mappings field by field."""
    result = dict(values)
    for name, value in overrides.items():
        inner = result.get(name)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merged(inner, value)
        result[name] = value
    return result
