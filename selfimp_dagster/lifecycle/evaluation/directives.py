"""Directives: what the evaluation of one round tells the stages of the next to do differently."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from selfimp_dagster.errors import SelfimpError

EVEN = 0.05
"""Accuracies that lie this close together call for no shift (share of items)."""

FLOOR = 0.1
"""The part of its base share that every skill keeps."""


class ShiftBudget(BaseModel):
    """Spend the generation budget of the next round where the policy is weak."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["shift_budget"] = "shift_budget"
    stage: Literal["acquisition"] = "acquisition"
    weights: dict[str, float]  # share of the generation budget by skill; they sum to 1
    signal: str  # the sentence that says which scores called for it

    @property
    def sentence(self) -> str:
        """What is done differently and why, in words."""
        shares = ", ".join(f"{share:.0%} {skill}" for skill, share in sorted(self.weights.items()))
        return f"Acquisition draws {shares}, because {self.signal}"


Directive = ShiftBudget
"""Any directive; `kind` tells them apart."""


def read_directives(text: str) -> tuple[Directive, ...]:
    """The directives of a ledger row, from their JSON."""
    return TypeAdapter(tuple[Directive, ...]).validate_json(text)


def sentences(directives: Iterable[Directive]) -> str:
    """What the directives ask for, in words."""
    return " ".join(directive.sentence for directive in directives) or "None."


def shift_budget(per_skill: Mapping[str, float], weights: Mapping[str, float]) -> ShiftBudget | None:
    """Shares of the generation budget in proportion to base weight x (1 - accuracy).

    A tenth of the budget keeps the base shares, so that no skill is starved. This policy is the project's
    own. None if the accuracies are within `EVEN` of each other.

    Args:
        per_skill: accuracy of the policy in force, for at least the skills of the mix.
        weights: positive base weights, the campaign's mix; they need not sum to 1.

    Raises:
        SelfimpError: a skill of the mix has no accuracy.
    """
    missing = sorted(skill for skill in weights if skill not in per_skill)
    if missing:
        raise SelfimpError(
            f"no accuracy for the skills {', '.join(missing)}",
            where="directive shift_budget",
            fix="give every skill of the campaign items in its evaluation suites",
        )
    skills = sorted(weights, key=lambda skill: (per_skill[skill], skill))
    weakest, strongest = skills[0], skills[-1]
    if per_skill[strongest] - per_skill[weakest] <= EVEN:
        return None
    total = sum(weights.values())
    need = {skill: weights[skill] * (1 - per_skill[skill]) for skill in weights}
    total_need = sum(need.values())
    return ShiftBudget(
        weights={
            skill: FLOOR * weights[skill] / total + (1 - FLOOR) * need[skill] / total_need
            for skill in weights
        },
        signal=f"{weakest} is weakest with an accuracy of {per_skill[weakest]:.2f}, "
        f"{strongest} strongest with {per_skill[strongest]:.2f}.",
    )
