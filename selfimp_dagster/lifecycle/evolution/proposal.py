"""The next child: which recipe it descends from, and which one field of the space it changes."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.engines.chat import Reply
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evolution.settings import Evolution
from selfimp_dagster.lifecycle.evolution.space import Gene, change, value_at
from selfimp_dagster.lifecycle.rewards.context import Question
from selfimp_dagster.lifecycle.rewards.verdicts import shown
from selfimp_dagster.presets import FIELD
from selfimp_dagster.records import canonical_json, derive_seed

_MUTATIONS = 64  # that are tried before one gives up to find a new valid recipe
_LINE = re.compile(r"[\s*`-]*([a-z_.]+)`?\s*[:=]\s*(.+?)[\s`]*$")

Ask = Callable[[Sequence[Question]], list[Reply]]
"""Asks the model that proposes."""


class Proposal(BaseModel):
    """A child that is to be tried: the round that it descends from, and what it changes in its recipe.

    `rejected` are the replies of the proposing model that were of no use, with the reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parent: str
    changes: dict[str, Any]
    proposed_by: str
    rejected: tuple[str, ...] = ()


def propose(
    parent: str,
    campaign: Campaign,
    tried: Sequence[Mapping[str, Any]],
    evolution: Evolution,
    seed: int,
    told: str = "",
    ask: Ask | None = None,
) -> Proposal:
    """One change of one field that makes a recipe of the parent's which its other children do not have.

    Args:
        parent: the round whose child it is.
        campaign: with the recipe of that round.
        tried: the changes of the children that the parent has.
        evolution: the space, and who proposes.
        seed: of this proposal.
        told: what earlier children came to, a line each, for the model that proposes.
        ask: asks that model; none: mutations only.

    Raises:
        SelfimpError: no change that was drawn makes a new recipe that fits.
    """
    known = {canonical_json(changes) for changes in tried}
    rejected: list[str] = []

    def fits(changes: dict[str, Any]) -> str:
        if canonical_json(changes) in known:
            return "was tried from there before"
        try:
            campaign.with_recipe(changes, where="evolution")
        except SelfimpError as error:
            return f"makes no recipe: {error.what}"
        return ""

    if ask is not None and evolution.proposer is not None:
        for reply in ask(_questions(campaign, evolution, seed, told)):
            field, value, problem = read_reply(reply, evolution.space)
            problem = problem or fits(change(field, value))
            if not problem:
                return Proposal(
                    parent=parent,
                    changes=change(field, value),
                    proposed_by=evolution.proposer.label,
                    rejected=tuple(rejected),
                )
            rejected.append(problem)
    lot = random.Random(seed)
    recipe = written_out(campaign)
    for _ in range(_MUTATIONS):
        field = lot.choice(sorted(evolution.space))
        changes = change(field, evolution.space[field].other(value_at(recipe, field), lot))
        if not fits(changes):
            return Proposal(parent=parent, changes=changes, proposed_by="mutation", rejected=tuple(rejected))
    raise SelfimpError(
        f"of {_MUTATIONS} mutations none makes a recipe that {parent} has no child with",
        where=f"campaign {campaign.name}: evolution.space",
        fix="widen the space, or end the evolution",
    )


def read_reply(reply: Reply, space: Mapping[str, Gene]) -> tuple[str, Any, str]:
    """The field and the value that a reply proposes, or why it cannot be used.

    The first line that names a field of the space counts: `field = value`, the value in YAML.
    """
    if reply.failure:
        return "", None, f"no reply: {reply.failure}"
    for line in reply.text.splitlines():
        match = _LINE.match(line)
        if match is None or match[1] not in space:
            continue
        try:
            return match[1], space[match[1]].read(_value(match[2])), ""
        except (ValueError, yaml.YAMLError) as error:
            return "", None, f"{match[1]}: {shown(str(error))}"
    return "", None, f"names no field of the space: {shown(reply.text)}"


def _value(text: str) -> Any:
    try:
        return float(text) if not re.fullmatch(r"[-+]?\d+", text) else int(text)
    except ValueError:  # YAML reads 5e-5 as text
        return yaml.safe_load(text)


def written_out(campaign: Campaign) -> dict[str, Any]:
    """The recipe of a campaign with all parameters, those too that have their defaults."""
    recipe = campaign.recipe.model_dump(mode="json")
    for place, stage, choice in campaign.recipe.choices():
        if place in recipe:
            method, parameters = choice.resolve(stage)
            recipe[place] = {"method": method.name, **parameters.model_dump(mode="json")}
    return recipe


def _questions(campaign: Campaign, evolution: Evolution, seed: int, told: str) -> list[Question]:
    recipe = written_out(campaign)
    fields = "\n".join(
        f"{field}: {gene.domain}" + ("" if field == FIELD else f"; now {value_at(recipe, field)}")
        for field, gene in sorted(evolution.space.items())
    )
    text = (
        "You improve how a language model is trained. These settings may be changed:\n\n"
        f"{fields}\n\n"
        + (f"What changes came to so far:\n\n{told}\n\n" if told else "")
        + "Propose one change. Reply with one line: the name of a setting, =, and its new value."
    )
    return [
        Question(({"role": "user", "content": text},), derive_seed(seed, "try", number))
        for number in range(evolution.tries)
    ]
