"""The tree of rounds as lines and lanes, and the pictures that are drawn of it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimp_dagster.lifecycle.ledger import STAGES, champions
from selfimp_dagster.lineage.round_tree import Line, change, lines
from selfimp_dagster.pictures import accuracy_over_rounds, cost_over_rounds, round_tree
from selfimp_dagster.round_key import RoundKey

_PNG = b"\x89PNG\r\n\x1a\n"


def rows(
    parents: list[int | None],
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    rejected: tuple[int, ...] = (),
    anchor: Mapping[int, float] | None = None,
    campaign: str = "tiny",
) -> list[dict[str, Any]]:
    """Ledger rows of rounds 0000, 0001, ... with these parents; changes hold for the rounds named alone."""
    made: list[dict[str, Any]] = []
    for number, parent in enumerate(parents):
        before = made[parent] if parent is not None else None
        weights = None
        if before is not None:
            weights = before["round"] if before["promoted"] else before["weights_round"]
        accuracy = (anchor or {}).get(number, 0.5)
        made.append(
            {
                "round": f"{campaign}/{number:04d}",
                "parent": before["round"] if before else None,
                "recipe_changes": json.dumps((changes or {}).get(number, {})),
                "weights_round": weights,
                "promoted": number not in rejected,
                "incumbent_anchor": 0.3,
                "candidate_anchor": accuracy,
                "candidate_anchor_low": accuracy - 0.1,
                "candidate_anchor_high": accuracy + 0.1,
                "anchor_set": 0,
                **{f"{stage}_{cost}": 10 for stage in STAGES[1:] for cost in ("seconds", "tokens")},
            }
        )
    champion = champions(made)
    return [{**row, "champion": row["round"] in champion} for row in made]


def test_a_campaign_without_branches_is_one_line() -> None:
    (line,) = lines(rows([None, 0, 1]))
    assert line == Line(("tiny/0000", "tiny/0001", "tiny/0002"), parent=None, lane=0, change="")
    assert line.name == "0000 from the base model"


def test_a_branch_is_a_line_that_says_what_it_changed() -> None:
    faster = {"optimization": {"learning_rate": 0.003}}
    main, branch = lines(rows([None, 0, 0, 2], {2: faster, 3: faster}))
    assert main.rounds == ("tiny/0000", "tiny/0001")
    assert (branch.rounds, branch.parent, branch.lane) == (("tiny/0002", "tiny/0003"), "tiny/0000", 1)
    assert branch.name == "0002 from 0000: optimization.learning_rate=0.003"


def test_a_branch_with_the_same_recipe_says_so() -> None:
    assert lines(rows([None, 0, 0]))[1].name == "0002 from 0000: the same recipe"


def test_a_change_is_told_where_it_was_made_and_not_again() -> None:
    first, second = {"optimization": {"epochs": 2}}, {"optimization": {"epochs": 2, "batch_size": 4}}
    told = rows([None, 0, 1, 2], {1: first, 2: first, 3: second})
    assert [change(row, before) for before, row in zip([None, *told], told, strict=False)] == [
        "",
        "optimization.epochs=2",
        "",
        "optimization.batch_size=4",
    ]


def test_lines_that_part_later_are_nearer_so_that_no_edge_crosses_a_line() -> None:
    found = lines(rows([None, 0, 1, 0, 1, 3, 3]))
    assert [(line.parent, line.rounds[0]) for line in found] == [
        (None, "tiny/0000"),
        ("tiny/0001", "tiny/0004"),
        ("tiny/0000", "tiny/0003"),
        ("tiny/0003", "tiny/0006"),
    ]


def test_a_round_whose_parent_is_gone_begins_a_line() -> None:
    found = lines(rows([None, 0, 1])[1:])
    assert [(line.rounds, line.parent) for line in found] == [(("tiny/0001", "tiny/0002"), None)]


@st.composite
def trees(draw: st.DrawFn) -> list[int | None]:
    """The parent of each round: any earlier one."""
    size = draw(st.integers(1, 30))
    return [None, *(draw(st.integers(0, number - 1)) for number in range(1, size))]


@settings(max_examples=50)
@given(trees())
def test_every_round_is_in_one_line_behind_its_parent(parents: list[int | None]) -> None:
    made = rows(parents)
    parent_of = {row["round"]: row["parent"] for row in made}
    found = lines(made)
    assert sorted(key for line in found for key in line.rounds) == [row["round"] for row in made]
    assert [line.lane for line in found] == list(range(len(found)))
    for line in found:
        assert [line.parent, *line.rounds[:-1]] == [parent_of[key] for key in line.rounds]


@settings(max_examples=50)
@given(trees())
def test_no_edge_crosses_another_line(parents: list[int | None]) -> None:
    found = lines(rows(parents))
    lane_of = {key: line.lane for line in found for key in line.rounds}
    for line in found[1:]:
        assert line.parent is not None
        between = range(lane_of[line.parent] + 1, line.lane)
        assert line.lane > lane_of[line.parent]
        for other in (found[lane] for lane in between):
            parting = RoundKey.parse(other.parent or "").number
            assert parting >= RoundKey.parse(line.parent).number


def test_the_champion_is_in_force_at_the_tip_of_a_line() -> None:
    superseded = rows([None, 0], anchor={0: 0.9, 1: 0.6})
    assert champions(superseded) == {"tiny/0001"}
    rejected_after = rows([None, 0, 1], rejected=(1, 2), anchor={0: 0.6, 1: 0.9, 2: 0.9})
    assert champions(rejected_after) == {"tiny/0000"}


def test_the_champion_is_that_of_the_best_line_the_earlier_on_ties() -> None:
    branches = [None, 0, 0, 1, 2]
    assert champions(rows(branches, anchor={3: 0.7, 4: 0.8})) == {"tiny/0004"}
    assert champions(rows(branches, anchor={3: 0.8, 4: 0.8})) == {"tiny/0003"}
    assert champions(rows(branches, rejected=(1, 2, 3, 4), anchor={0: 0.4, 1: 0.9})) == {"tiny/0000"}


def test_there_is_no_champion_where_nothing_was_promoted_and_one_for_each_campaign_else() -> None:
    nothing = rows([None, 0, 1], rejected=(0, 1, 2))
    assert champions(nothing) == set()
    assert champions([*nothing, *rows([None], campaign="other")]) == {"other/0000"}


def test_a_campaign_without_anchor_items_has_a_champion_too() -> None:
    assert champions([{**row, "candidate_anchor": None} for row in rows([None, 0])]) == {"tiny/0001"}


@pytest.mark.parametrize("draw", [round_tree, accuracy_over_rounds, cost_over_rounds])
def test_pictures_grow_with_what_they_show(draw: Any) -> None:
    def size(drawn: bytes) -> tuple[int, int]:
        assert drawn.startswith(_PNG)
        return int.from_bytes(drawn[16:20], "big"), int.from_bytes(drawn[20:24], "big")

    assert min(size(draw([]))) > 0
    width, height = size(draw(rows([None])))
    long = size(draw(rows([None, *range(39)])))
    assert width < long[0] <= 14 * 110
    two = [*rows([None]), *rows([None], campaign="other")]
    assert 2 * height - 2 <= size(draw(two))[1] <= 2 * height + 2
    assert min(size(draw([{**row, "candidate_anchor": None} for row in rows([None, 0])]))) > 0
