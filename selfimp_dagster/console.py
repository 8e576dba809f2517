"""Tables for people at a terminal, and for programs behind it."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfimp_dagster.lifecycle.evaluation.dimensions import ARMS, MEASURES
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lineage.inventory import Gap
from selfimp_dagster.lineage.round_tree import lines

console = Console()
errors = Console(stderr=True)

_GAPS_SHOWN = 10


def print_ledger(ledger: pl.DataFrame) -> None:
    """Per round: both arms with intervals on every suite, verdict, decision, tokens and seconds.

    Then the lines of campaigns that have branches, and the champions.
    """
    scores = _table("round", "suite", "incumbent", "candidate", title="Accuracy (95 % interval)")
    for row in ledger.iter_rows(named=True):
        for suite in ("anchor", "fresh", "guard"):
            if row[f"incumbent_{suite}"] is not None:
                arms = [_score(row, f"{arm}_{suite}") for arm in ("incumbent", "candidate")]
                scores.add_row(row["round"], suite, *arms)
        scores.add_section()
    console.print(scores)
    verdicts = _table("round", "status", "verdict", "decision", title="Verdict and decision")
    for row in ledger.iter_rows(named=True):
        color = "green" if row["promoted"] else "yellow"
        told = (f"[{color}]{escape(row[column])}" for column in ("status", "verdict"))
        verdicts.add_row(row["round"], *told, escape(row["decision"]))
    console.print(verdicts)
    costs = _table("round", "stage", "seconds", "tokens", title="Cost")
    for row in ledger.iter_rows(named=True):
        for stage in STAGES[1:]:
            seconds, tokens = row[f"{stage}_seconds"], row[f"{stage}_tokens"]
            costs.add_row(row["round"], stage, f"{seconds:,.1f}", f"{tokens:,}")
        costs.add_row(row["round"], "all", f"{row['seconds']:,.1f}", f"{row['tokens']:,}", style="bold")
        costs.add_section()
    console.print(costs)
    _print_lines(ledger)


def _print_lines(ledger: pl.DataFrame) -> None:
    by_campaign = ledger.with_columns(campaign=pl.col("round").str.split("/").list.first())
    for rows in by_campaign.partition_by("campaign", maintain_order=True):
        campaign, found = rows["campaign"][0], lines(rows.to_dicts())
        if len(found) > 1:
            print_rows(
                ("line", "rounds"),
                ((escape(line.name), " ".join(key.split("/")[1] for key in line.rounds)) for line in found),
                title=f"Lines of {campaign}",
            )
        for champion in rows.filter("champion").iter_rows(named=True):
            anchor = champion["candidate_anchor"]
            accuracy = "" if anchor is None else f", with an anchor accuracy of {anchor:.3f}"
            console.print(f"Champion of {campaign}: {champion['round']}{accuracy}.", highlight=False)


def print_directives(rows: pl.DataFrame) -> None:
    """What each round was told and why, whether its stage obeyed, and what its figures became."""
    shown = _table("round", "directive", "because", "done", "became", title="Directives")
    for row in rows.iter_rows(named=True):
        color = {True: "green", False: "yellow", None: "default"}[row["obeyed"]]
        done = f"[{color}]{escape(row['done'] or 'not known')}"
        shown.add_row(row["round"], row["kind"], escape(row["signal"]), done, escape(row["became"]))
    console.print(shown)


def print_dimensions(rows: pl.DataFrame, title: str) -> None:
    """A line for each measure of a round, both arms beside each other."""
    shown = _table("dimension", "measure", "incumbent", "candidate", "unit", title=title)
    for (measure,), arms in rows.partition_by("measure", as_dict=True, maintain_order=True).items():
        by_arm = {row["arm"]: _measured(row) for row in arms.iter_rows(named=True)}
        dimension, unit = MEASURES[str(measure)]
        shown.add_row(dimension, measure, *(by_arm.get(arm, "") for arm in ARMS), unit)
    console.print(shown)


def print_monitors(readings: Iterable[Reading], title: str) -> None:
    """What every monitor says of a round, and for an alarm what follows and what to do."""
    shown = _table("monitor", "state", "what it says", title=title)
    for reading in readings:
        color = {"alarm": "red", "quiet": "green"}.get(reading.state, "yellow")
        told = reading.sentence
        if reading.is_alarm:
            told += f" What follows: {reading.follows}. What to do: {reading.action}."
        shown.add_row(reading.monitor, f"[{color}]{reading.state}", escape(told))
    console.print(shown)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    table = _table(*header, title=title)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console.print(table)


def text(value: Any) -> str:
    """A value of a query's result as one reads it: nothing for null, JSON for lists and structures."""
    if value is None:
        return ""
    return json.dumps(value, default=str) if isinstance(value, list | dict) else str(value)


def write_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows on standard output, as they come."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([text(value) for value in row] for row in rows)


def write_json(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A JSON array of objects on standard output, one object a line, as they come."""
    separator = "[\n"
    for row in rows:
        line = json.dumps(dict(zip(header, row, strict=True)), default=str, ensure_ascii=False)
        sys.stdout.write(separator + line)
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def print_gaps(gaps: Sequence[Gap]) -> None:
    """What the store lacks, on standard error: one line each, at most ten and how many more."""
    for gap in gaps[:_GAPS_SHOWN]:
        errors.print(f"[yellow]missing[/yellow] {escape(str(gap))}", highlight=False, soft_wrap=True)
    if len(gaps) > _GAPS_SHOWN:
        errors.print(f"... and {len(gaps) - _GAPS_SHOWN} more gaps in the store", highlight=False)


def _table(*header: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, no_wrap=place == 0)
    return table


def _score(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _measured(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['value']:.3g}{interval}"
