"""How stages obey directives: one pure function per stage, which changes what the recipe says and tells what.

A directive asks for an effect; which fields of a recipe's methods have it is known here. What somebody set by
hand for a run wins, and is told too.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfimp_dagster.campaign import Campaign, MethodChoice, Recipe
from selfimp_dagster.lifecycle.acquisition.mixture import Mixture
from selfimp_dagster.lifecycle.evaluation.directives import (
    Directive,
    Distil,
    Halt,
    MoveDifficulty,
    RecentreBand,
    Replay,
    RequireVerification,
    ShiftBudget,
    SmallerStep,
    SwitchRecipe,
    named,
)
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.registry import Stage, find_method

OBEYED_BY = {
    "recipe": "incumbent_policy",
    "continuation": "incumbent_policy",
    "acquisition": "generated_corpus",
    "selection": "selected_subset",
    "optimization": "checkpoint",
    "refinement": "refined_outputs",
}
"""By the stage of a directive, the artifact whose facts say, under `obeyed`, what became of it there."""


class Changed(BaseModel):
    """A field that a directive changed, and from what to what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    before: Any
    after: Any

    @property
    def text(self) -> str:
        return f"{self.field} {_shown(self.before)} to {_shown(self.after)}"


class Obeyed(BaseModel):
    """What became of a directive in its stage.

    Without anything else, all was as directed already. `overridden` are fields that it would have changed
    and that somebody set by hand; `not_applicable` says why nothing could be changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    directive: str
    changed: tuple[Changed, ...] = ()
    overridden: tuple[str, ...] = ()
    not_applicable: str | None = None

    @property
    def done(self) -> bool:
        """Whether it was obeyed."""
        return self.not_applicable is None and (bool(self.changed) or not self.overridden)

    @property
    def sentence(self) -> str:
        """It in words."""
        if self.not_applicable is not None:
            return f"not applicable: {self.not_applicable}"
        parts = [change.text for change in self.changed]
        parts += [f"{field} set by hand" for field in self.overridden]
        return "; ".join(parts) or "as it was"


@dataclass(frozen=True)
class Mix:
    """What acquisition draws: each skill's share, and the hardest level of the skills that are named."""

    weights: Mapping[str, float]
    hardest: Mapping[str, float]


def obey_start(
    campaign: Campaign,
    changes: Mapping[str, Any],
    before: str | None,
    approved: str | None,
    directives: Iterable[Directive],
) -> list[Obeyed]:
    """What became of the directives that the start of a round obeys.

    Args:
        campaign: the campaign that the round follows.
        changes: what people changed in the recipe of the line; it stands above that of a strategy.
        before: the strategy of the round before; None: the campaign's own recipe.
        approved: how a person approved going on after a halt.
        directives: those of the round.
    """
    told = []
    for directive in directives:
        if isinstance(directive, SwitchRecipe):
            chosen = campaign.strategies[directive.strategy] if directive.strategy else {}
            recipes = Changed(field="recipe", before=named(before), after=named(directive.strategy))
            told.append(
                Obeyed(
                    directive=directive.kind,
                    changed=() if before == directive.strategy else (recipes,),
                    overridden=tuple(sorted(_fields(chosen) & _fields(changes))),
                )
            )
        elif isinstance(directive, Halt):
            asked = Changed(field="approved", before=None, after=approved)
            told.append(Obeyed(directive=directive.kind, changed=(asked,)))
    return told


def obey_acquisition(mix: Mix, directives: Iterable[Directive]) -> tuple[Mix, list[Obeyed]]:
    """The mix to draw."""
    told = []
    for directive in directives:
        if isinstance(directive, ShiftBudget):
            changed = _changes("weights", mix.weights, directive.weights)
            mix = Mix(directive.weights, mix.hardest)
        elif isinstance(directive, MoveDifficulty):
            changed = _changes("hardest", directive.hardest_before, directive.hardest)
            mix = Mix(mix.weights, directive.hardest)
        else:
            continue
        told.append(Obeyed(directive=directive.kind, changed=changed))
    return mix, told


def obey_selection(
    recipe: Recipe, directives: Iterable[Directive]
) -> tuple[tuple[MethodChoice, ...], list[Obeyed]]:
    """The chain of steps to run."""
    chain, told = recipe.selection, []
    verifiable = any(reward.method == ANSWER for reward in recipe.rewards)
    for directive in directives:
        if directive.stage != "selection":
            continue
        steps: list[MethodChoice] = []
        changed: list[Changed] = []
        for step in chain:
            now = _parameters("selection", step)
            wanted = _of_selection(directive, step.method, now, verifiable)
            steps.append(step.with_parameters(wanted))
            changed += _changes(step.method, now, wanted)
        chain = tuple(steps)
        reason = None if changed else "no step has what it would change, or has it at its end already"
        told.append(Obeyed(directive=directive.kind, changed=tuple(changed), not_applicable=reason))
    return chain, told


def _of_selection(
    directive: Directive, method: str, now: Mapping[str, Any], verifiable: bool
) -> dict[str, Any]:
    """The fields of a step that a directive changes, with their new values."""
    if isinstance(directive, RecentreBand) and method == "difficulty_band":
        moved = {end: min(1.0, max(0.0, now[end] + directive.move)) for end in ("low", "high")}
        return {end: round(value, 6) for end, value in moved.items()}
    if isinstance(directive, RequireVerification) and {"reward", "minimum_confidence"} <= now.keys():
        if now["reward"] == ANSWER:
            return {}
        if verifiable:
            return {"reward": ANSWER}
        return {
            "minimum_confidence": round(min(1.0, now["minimum_confidence"] + directive.more_confidence), 6)
        }
    return {}


def obey_optimization(
    choice: MethodChoice, directives: Iterable[Directive], overrides: Mapping[str, Any], earlier_rows: int
) -> tuple[MethodChoice, list[Obeyed]]:
    """The method to train with. `overrides` are set by hand, `earlier_rows` are there to be replayed."""

    def wanted(directive: Directive, now: Mapping[str, Any]) -> dict[str, Any] | str:
        if isinstance(directive, SmallerStep):
            if "learning_rate" not in now:
                return f"{choice.method} has no learning rate"
            return {"learning_rate": now["learning_rate"] * directive.factor}
        assert isinstance(directive, Replay)
        if "replay" not in now:
            return f"{choice.method} replays nothing"
        if now.get("start_from") == "base":
            return "all rows of all rounds are trained on already"
        if not earlier_rows:
            return "no earlier round of the line selected rows"
        return {"replay": round(now["replay"] + directive.more, 6)}

    return _obey("optimization", choice, directives, overrides, wanted)


def obey_refinement(
    recipe: Recipe, directives: Iterable[Directive], overrides: Mapping[str, Any]
) -> tuple[MethodChoice, list[Obeyed]]:
    """The method to refine with. `overrides` are set by hand."""
    _, acquisition = recipe.acquisition.resolve("acquisition")
    sources = [p for _, p in acquisition.methods] if isinstance(acquisition, Mixture) else [acquisition]
    taken_up = any(getattr(source, "refined_outputs", False) for source in sources)

    def wanted(directive: Directive, now: Mapping[str, Any]) -> dict[str, Any] | str:
        if isinstance(directive, Distil):
            if not taken_up:
                return f"{recipe.acquisition.method} takes no refined outputs"
            return {"tasks": round(now["tasks"] * directive.factor)}
        return {"tasks": 0}

    return _obey("refinement", recipe.refinement, directives, overrides, wanted)


def _obey(
    stage: Stage,
    choice: MethodChoice,
    directives: Iterable[Directive],
    overrides: Mapping[str, Any],
    wanted: Callable[[Directive, Mapping[str, Any]], dict[str, Any] | str],
) -> tuple[MethodChoice, list[Obeyed]]:
    """A choice as directed, then as overridden; `wanted` gives fields new values, or says why it does not."""
    told = []
    for directive in directives:
        if directive.stage != stage:
            continue
        now = _parameters(stage, choice)
        values = wanted(directive, now)
        if isinstance(values, str):
            told.append(Obeyed(directive=directive.kind, not_applicable=values))
            continue
        free = {field: value for field, value in values.items() if field not in overrides}
        told.append(
            Obeyed(
                directive=directive.kind,
                changed=_changes(choice.method, now, free),
                overridden=tuple(sorted(values.keys() & overrides.keys())),
            )
        )
        choice = choice.with_parameters(free)
    return choice.with_parameters(overrides), told


def _parameters(stage: Stage, choice: MethodChoice) -> dict[str, Any]:
    """All parameters of a choice, those left to their defaults included."""
    return find_method(stage, choice.method).parameters.model_validate(choice.parameters).model_dump()


def _changes(of: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Changed, ...]:
    return tuple(
        Changed(field=f"{of}.{name}", before=before[name], after=value)
        for name, value in sorted(after.items())
        if before[name] != value
    )


def _fields(changes: Mapping[str, Any]) -> set[str]:
    """The fields of a recipe that a part of one gives, `stage.parameter` or a list's name."""
    return {
        f"{place}.{name}" if name else place
        for place, choice in changes.items()
        for name in (choice if isinstance(choice, Mapping) else ("",))
    }


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
