"""Tables for people at a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

console = Console()

_STAGE_COLUMNS = {
    "generated_corpus_seconds": "sample",
    "selected_subset_seconds": "select",
    "checkpoint_seconds": "train",
    "refined_outputs_seconds": "refine",
    "eval_report_seconds": "evaluate",
}


def print_ledger(ledger: pl.DataFrame) -> None:
    """Per round: both arms with intervals on every suite, verdict, decision, tokens and seconds."""
    scores = _table("round", "suite", "incumbent", "candidate", title="Accuracy (95 % interval)")
    for row in ledger.iter_rows(named=True):
        for place, suite in enumerate(("anchor", "fresh", "guard")):
            if row[f"incumbent_{suite}"] is not None:
                arms = [_score(row, f"{arm}_{suite}") for arm in ("incumbent", "candidate")]
                scores.add_row("" if place else row["round"], suite, *arms)
        scores.add_section()
    console.print(scores)
    verdicts = _table("round", "verdict", "decision", title="Verdict and decision")
    for row in ledger.iter_rows(named=True):
        verdict = f"[green]{row['verdict']}" if row["promoted"] else f"[yellow]{row['verdict']}"
        verdicts.add_row(row["round"], verdict, row["decision"])
    console.print(verdicts)
    costs = _table("round", "tokens", *_STAGE_COLUMNS.values(), "all", title="Cost (seconds by stage)")
    for row in ledger.iter_rows(named=True):
        stages = [f"{row[column]:.1f}" for column in _STAGE_COLUMNS]
        costs.add_row(row["round"], f"{row['tokens']:,}", *stages, f"{row['seconds']:.1f}")
    console.print(costs)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    table = _table(*header, title=title)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console.print(table)


def _table(*header: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name)
    return table


def _score(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"
