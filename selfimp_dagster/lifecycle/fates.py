"""What became of directives: whether their stages obeyed, and what the round that was given them measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from selfimp_dagster.lifecycle.evaluation.directives import Directive
from selfimp_dagster.lifecycle.evaluation.steering import readings
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.lifecycle.obedience import OBEYED_BY, Obeyed
from selfimp_dagster.records import canonical_json
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

DIRECTIVES = pl.Schema(
    {
        "round": pl.String(),  # the round that was given the directive
        "kind": pl.String(),
        "stage": pl.String(),
        "signal": pl.String(),
        "directed": pl.String(),
        "obeyed": pl.Boolean(),  # null: its stage has not run
        "done": pl.String(),  # what the stage changed, or why it changed nothing
        "before": pl.String(),  # JSON: the figures that the directive is about, in the round before
        "after": pl.String(),  # JSON: in the round itself; null: not measured
        "became": pl.String(),  # both in words
    }
)


@dataclass(frozen=True)
class Fate:
    """A directive, what its stage did (none: it has not run), and its figures before and after."""

    directive: Directive
    obeyed: Obeyed | None
    before: Mapping[str, float]
    after: Mapping[str, float] | None

    @cached_property
    def became(self) -> str:
        """`sums 0.53 -> 0.61`, a figure each; those that one of the rounds did not measure with a dash."""
        names = [*self.before, *(name for name in self.after or {} if name not in self.before)]
        return ", ".join(f"{name} {_figure(self.before, name)}{self._after(name)}" for name in names)

    def _after(self, name: str) -> str:
        return "" if self.after is None else f" -> {_figure(self.after, name)}"

    @property
    def row(self) -> dict[str, Any]:
        """A row of DIRECTIVES, without its round."""
        return {
            "kind": self.directive.kind,
            "stage": self.directive.stage,
            "signal": self.directive.signal,
            "directed": self.directive.order,
            "obeyed": None if self.obeyed is None else self.obeyed.done,
            "done": None if self.obeyed is None else self.obeyed.sentence,
            "before": canonical_json(dict(self.before)),
            "after": None if self.after is None else canonical_json(dict(self.after)),
            "became": self.became,
        }


def _figure(readings: Mapping[str, float], name: str) -> str:
    return f"{readings[name]:.2f}" if name in readings else "-"


def fates(
    directives: Iterable[Directive],
    told: Mapping[str, Iterable[Obeyed]],
    before: RoundSummary | None,
    after: RoundSummary | None,
) -> list[Fate]:
    """What became of the directives of a round.

    Args:
        directives: those that it was started with.
        told: what each of its artifacts says was obeyed; an artifact that is not made yet is left out.
        before: the round before it in its line.
        after: the round itself; None: it is not finished.
    """
    found = []
    for directive in directives:
        asset = OBEYED_BY[directive.stage]
        obeyed = None
        if asset in told:
            said = (each for each in told[asset] if each.directive == directive.kind)
            silent = Obeyed(directive=directive.kind, not_applicable=f"{asset} says nothing of it")
            obeyed = next(said, silent)
        found.append(
            Fate(
                directive=directive,
                obeyed=obeyed,
                before={} if before is None else readings(directive, before),
                after=None if after is None else readings(directive, after),
            )
        )
    return found


def read_obeyed(store: ArtifactStore, key: RoundKey) -> dict[str, list[Obeyed]]:
    """What each artifact of a round says was obeyed; those of before this was recorded say nothing."""
    return {
        asset: [
            Obeyed.model_validate(said)
            for said in store.open(key, asset, verify=False).facts.get("obeyed", ())
        ]
        for asset in dict.fromkeys(OBEYED_BY.values())
        if store.has(key, asset)
    }
