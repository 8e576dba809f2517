"""Directives: what the evaluation of one round tells the stages of the next to do differently."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Directive(BaseModel, ABC):
    """`signal` is the sentence that says what was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signal: str

    @property
    @abstractmethod
    def order(self) -> str:
        """What is to be done, without its reason."""

    @property
    def sentence(self) -> str:
        """What is done differently and why, in words."""
        return f"{self.order}, because {self.signal}"


class ShiftBudget(_Directive):
    """Spend the generation budget of the next round where the policy is weak."""

    kind: Literal["shift_budget"] = "shift_budget"
    stage: Literal["acquisition"] = "acquisition"
    weights: dict[str, float]  # share of the generation budget by skill; they sum to 1

    @property
    def order(self) -> str:
        shares = ", ".join(f"{share:.0%} {skill}" for skill, share in sorted(self.weights.items()))
        return f"Acquisition draws {shares}"


class MoveDifficulty(_Directive):
    """Draw tasks up to a level that is one step harder or easier than the hardest of the last round."""

    kind: Literal["move_difficulty"] = "move_difficulty"
    stage: Literal["acquisition"] = "acquisition"
    hardest: dict[str, float]  # the hardest level to draw, by skill
    hardest_before: dict[str, float]

    @property
    def order(self) -> str:
        levels = ", ".join(
            f"{skill} up to {level:g}"
            + ("" if level == self.hardest_before[skill] else f" (was {self.hardest_before[skill]:g})")
            for skill, level in sorted(self.hardest.items())
        )
        return f"Acquisition draws {levels}"


class RecentreBand(_Directive):
    """Move the band of pass rates that selection keeps towards where they pile up."""

    kind: Literal["recentre_band"] = "recentre_band"
    stage: Literal["selection"] = "selection"
    move: float  # added to both ends of the band

    @property
    def order(self) -> str:
        return f"Selection moves its band of pass rates by {self.move:+.2g}"


class RequireVerification(_Directive):
    """Keep what a verifier accepts; where the recipe does not show it, what the reward is surer of."""

    kind: Literal["require_verification"] = "require_verification"
    stage: Literal["selection"] = "selection"
    more_confidence: float  # added to the smallest confidence that is kept

    @property
    def order(self) -> str:
        return f"Selection keeps what is verified, or asks for {self.more_confidence:.2g} more confidence"


class Replay(_Directive):
    """Train on more rows of earlier rounds beside the new ones."""

    kind: Literal["replay"] = "replay"
    stage: Literal["optimization"] = "optimization"
    more: float  # added to the replayed rows, as a multiple of the round's rows

    @property
    def order(self) -> str:
        return f"Optimization replays {self.more:.2g} times the round's rows more"


class SmallerStep(_Directive):
    """Stay closer to the incumbent: a smaller learning rate, since supervised training has no KL term."""

    kind: Literal["smaller_step"] = "smaller_step"
    stage: Literal["optimization"] = "optimization"
    factor: float  # of the learning rate

    @property
    def order(self) -> str:
        return f"Optimization takes {self.factor:.2g} times its learning rate"


class SwitchRecipe(_Directive):
    """Follow one of the campaign's recipes: the one that a bandit over them chooses."""

    kind: Literal["switch_recipe"] = "switch_recipe"
    stage: Literal["recipe"] = "recipe"
    strategy: str | None  # null: the campaign's own recipe

    @property
    def order(self) -> str:
        return f"The round follows {named(self.strategy)}"


class Distil(_Directive):
    """Answer more tasks with refinement, so that the next corpus is offered more refined answers."""

    kind: Literal["distil"] = "distil"
    stage: Literal["refinement"] = "refinement"
    factor: float  # of the tasks that are refined

    @property
    def order(self) -> str:
        return f"Refinement answers {self.factor:.2g} times as many tasks"


class StopRefining(_Directive):
    """Spend nothing on refinement, for as long as what was measured of it lies in the last rounds."""

    kind: Literal["stop_refining"] = "stop_refining"
    stage: Literal["refinement"] = "refinement"

    @property
    def order(self) -> str:
        return "Refinement answers no tasks"


class Halt(_Directive):
    """Ask a person before the next round."""

    kind: Literal["halt"] = "halt"
    stage: Literal["continuation"] = "continuation"

    @property
    def order(self) -> str:
        return "A person is asked before the next round"


Directive = Annotated[
    ShiftBudget
    | MoveDifficulty
    | RecentreBand
    | RequireVerification
    | Replay
    | SmallerStep
    | SwitchRecipe
    | Distil
    | StopRefining
    | Halt,
    Field(discriminator="kind"),
]
"""Any directive; `kind` tells them apart."""


def named(strategy: str | None) -> str:
    """A recipe of the campaign as it stands in a sentence."""
    return "the campaign's own recipe" if strategy is None else f"the recipe {strategy}"


def read_directives(text: str) -> tuple[Directive, ...]:
    """The directives of a ledger row, from their JSON."""
    return TypeAdapter(tuple[Directive, ...]).validate_json(text)


def sentences(directives: Iterable[Directive]) -> str:
    """What the directives ask for, in words."""
    return " ".join(directive.sentence for directive in directives) or "None."
