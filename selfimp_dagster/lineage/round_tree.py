"""The tree of a campaign's rounds as lines of rounds, each with a lane of its own to be drawn in."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimp_dagster.campaign import changes_text
from selfimp_dagster.round_key import RoundKey


@dataclass(frozen=True)
class Line:
    """Rounds that each go on with the one before, from the first of a branch on.

    `parent` is the round that the branch parts from, none for a line that starts from the base model;
    `lane` counts from 0; `change` is what the first round changed in its parent's recipe, in words.
    """

    rounds: tuple[str, ...]
    parent: str | None
    lane: int
    change: str

    @property
    def name(self) -> str:
        """What tells the line from the others."""
        first = f"{RoundKey.parse(self.rounds[0]).number:04d}"
        if self.parent is None:
            return f"{first} from the base model" + (f": {self.change}" if self.change else "")
        return f"{first} from {RoundKey.parse(self.parent).number:04d}: {self.change or 'the same recipe'}"


def lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The lines of a campaign, in the order of their lanes.

    The first round that goes on with another stays in its line, every later one begins a line. A lane is
    below that of the line it parts from, and lines that part later are nearer to it: so the edge from a
    round to a branch crosses no other line.

    Args:
        rows: hold round, parent and recipe_changes (JSON), in the order of the rounds. A parent that is
            not among them counts as none.
    """
    known = {row["round"]: row for row in rows}
    children: dict[str | None, list[str]] = defaultdict(list)
    for key, row in known.items():
        children[row["parent"] if row["parent"] in known else None].append(key)
    found: list[Line] = []
    waiting: list[tuple[str | None, str]] = [
        (None, root) for root in reversed(children[None])
    ]  # a stack: the last is drawn first
    while waiting:
        parent, first = waiting.pop()
        line, partings = [first], list[tuple[str | None, str]]()
        while children[line[-1]]:
            following, *branches = children[line[-1]]
            partings += [(line[-1], branch) for branch in reversed(branches)]
            line.append(following)
        waiting += partings  # the latest is nearest
        found.append(Line(tuple(line), parent, len(found), change(known[first], known.get(parent or ""))))
    return found


def change(row: Mapping[str, Any], parent: Mapping[str, Any] | None) -> str:
    """What a round changed in the recipe of its parent, in words; empty if it changed nothing."""
    changes: dict[str, Any] = json.loads(row["recipe_changes"])
    inherited: dict[str, Any] = json.loads(parent["recipe_changes"]) if parent else {}
    return changes_text(_other_than(inherited, changes))


def _other_than(inherited: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that are not inherited."""
    own = {}
    for name, value in changes.items():
        before = inherited.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _other_than(before, value)
            if value:
                own[name] = value
        elif value != before:
            own[name] = value
    return own
