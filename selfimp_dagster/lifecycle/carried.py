"""What methods leave for the next round of their line: small models in a JSON file of its artifact."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.store import Artifact

_State = TypeVar("_State", bound=BaseModel)


def carried_state(parent: Artifact, file: str, method: str, state: type[_State]) -> _State | None:
    """What a method left in the artifact of the parent round, or none if it was not in that round's recipe.

    Raises:
        SelfimpError: another version of the method left something else.
    """
    if not parent.has_json(file):
        return None
    found = parent.json(file).get(method)
    try:
        return None if found is None else state.model_validate(found)
    except ValidationError as error:
        raise SelfimpError(
            f"the state that {method} left does not fit this version: {error.errors()[0]['msg']}",
            where=f"{parent.manifest.round} {parent.manifest.asset}: {file}.json",
            fix="start the round from an ancestor without it, or take the method out of the recipe",
        ) from error
