"""The archive: every recipe that was tried, whose child it is, and what became of its descendants.

The archive is the campaign's tree of rounds: a child is a branch with another recipe, its gate is the
promotion rule of its round. So nothing of it is lost that the rounds do not lose.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from selfimp_dagster.records import derive_seed


@dataclass(frozen=True)
class Tried:
    """One recipe of the archive: a finished round; `promoted`: it passed the promotion rule."""

    round: str
    parent: str | None
    promoted: bool


class Clade(NamedTuple):
    """A recipe with all that descend from it: how many passed the promotion rule, and how many not."""

    promoted: int
    rejected: int


def clades(archive: Sequence[Tried]) -> dict[str, Clade]:
    """The clade of every recipe.

    Args:
        archive: parents before their children.
    """
    counts = {tried.round: [0, 0] for tried in archive}
    parents = {tried.round: tried.parent for tried in archive}
    for tried in archive:
        here: str | None = tried.round
        while here is not None:
            counts[here][not tried.promoted] += 1
            here = parents[here]
    return {round_: Clade(*both) for round_, both in counts.items()}


def choose_parent(archive: Sequence[Tried], budget: int, seed: int) -> str:
    """Which recipe has the next child: by the success of its clade, not by its own score.

    Of the Huxley-Goedel machine (Wang et al., arXiv:2510.21614): each eligible recipe draws from
    Beta(t (1 + promoted), t (1 + rejected)) of its clade, and the largest draw is chosen; t is the budget
    over what is left of it, so that the choice is bold first and careful at the end. There the clade counts
    solved and unsolved tasks, here passed and failed gates. Eligible are recipes that passed, and the first.

    Args:
        archive: at least one recipe; parents before their children.
        budget: children that the archive is to have in the end; more than it has.
        seed: of the campaign; the draw depends on it and on how many recipes there are.
    """
    sharpness = budget / (budget - (len(archive) - 1))
    lot = random.Random(derive_seed(seed, "evolution", "parent", len(archive)))
    counted = clades(archive)
    drawn = []
    for tried in archive:
        if tried.promoted or tried.parent is None:
            promoted, rejected = counted[tried.round]
            draw = lot.betavariate(sharpness * (1 + promoted), sharpness * (1 + rejected))
            drawn.append((draw, tried.round))
    return max(drawn)[1]
