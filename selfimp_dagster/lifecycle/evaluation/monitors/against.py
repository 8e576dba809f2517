"""Comparisons of a candidate with every policy that was in force before it."""

from collections.abc import Callable, Mapping

import polars as pl

LEAST = 10
"""Items or tasks below which a monitor says nothing."""


def incumbents(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The rows of each policy that was in force so far, by the first round that measured it.

    Args:
        tables: rows with `arm` and `policy_hash` of each round of a line, in order, this one's last.
    """
    found: dict[str, pl.DataFrame] = {}
    known: set[tuple[str, str]] = set()
    for round_, table in tables.items():
        mine = table.filter(pl.col("arm") == "incumbent")
        measured = {
            (row[0], row[1]) for row in mine.select("policy_hash", "fingerprint").unique().iter_rows()
        }
        if measured - known:
            found[round_] = mine
            known |= measured
    return found


def pairs_with(
    candidate: pl.DataFrame,
    references: Mapping[str, pl.DataFrame],
    per_item: Callable[[pl.DataFrame], pl.DataFrame],
    least: int = LEAST,
    by: str = "item_id",
) -> dict[str, pl.DataFrame]:
    """For each reference what both answered under the same harness, a row each, sorted by `by`.

    `per_item` gives a row with `by` and `fingerprint` for each item or task; columns of the reference end
    in `_before`. References with fewer than `least` of them in common are left out.
    """
    now = per_item(candidate)
    joined = {
        round_: now.join(per_item(rows), on=[by, "fingerprint"], suffix="_before").sort(by)
        for round_, rows in references.items()
    }
    return {round_: rows for round_, rows in joined.items() if rows.height >= least}
