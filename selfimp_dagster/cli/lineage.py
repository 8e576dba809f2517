"""Lineage: where rounds and rows came from, and what came of them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from selfimp_dagster.cli.app import app
from selfimp_dagster.console import console, print_rows
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.comparison import SkillDifference
from selfimp_dagster.lifecycle.evaluation.comparison import compare as compare_rounds
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import settings
from selfimp_dagster.store import ArtifactStore

_PANEL = "Lineage"


@app.command(rich_help_panel=_PANEL)
def sql(
    query: Annotated[
        str | None, typer.Argument(help="SQL over the views; without it the views are listed.")
    ] = None,
) -> None:
    """Ask the artifact store with SQL (DuckDB): tasks, samples, rewards, selection, evaluations, ..."""
    import duckdb

    from selfimp_dagster.lineage import connect

    connection = connect(ArtifactStore(settings().store))
    if query is None:
        print_rows(
            ("view", "columns"),
            connection.execute(
                "SELECT table_name, string_agg(column_name, ', ' ORDER BY ordinal_position) "
                "FROM information_schema.columns GROUP BY table_name ORDER BY table_name"
            ).fetchall(),
        )
        return
    try:
        result = connection.execute(query)
        print_rows([column[0] for column in result.description or ()], result.fetchall())
    except duckdb.Error as error:
        raise SelfimpError(str(error), where="query", fix="`selfimp sql` lists views and columns") from error


@app.command(rich_help_panel=_PANEL)
def compare(
    first: Annotated[str, typer.Argument(help="A finished round, for example arithmetic/0001.")],
    second: Annotated[str, typer.Argument(help="Another finished round, for example of another branch.")],
) -> None:
    """Compare two rounds: their candidates on the same items, and what differs in how they were made."""
    found = compare_rounds(ArtifactStore(settings().store), RoundKey.parse(first), RoundKey.parse(second))
    console.print(found.lineage_sentence, highlight=False)
    console.print(escape(found.recipe_sentence), highlight=False)
    console.print(found.lineage_sentence, highlight=False)
    console.print(escape(found.recipe_sentence), highlight=False)
    print_rows(
        ("suite", "skill", "items", first, second, "difference (95 % interval)"),
        (
            (s.suite, s.skill, s.n, f"{s.first:.3f}", f"{s.second:.3f}", _with_interval(s))
            for s in found.skills
        ),
        title="The candidates on the items that both answered",
    )
    console.print(found.sentence, highlight=False)
    print_rows(
        ("skill", "in both", f"in {first} alone", f"in {second} alone"),
        ((rows.skill, rows.both, rows.first, rows.second) for rows in found.rows),
        title="The rows that they were trained on",
    )
    made = [*((f"recipe.{d.field}", d) for d in found.recipe), *((d.field, d) for d in found.made)]
    print_rows(
        ("field", first, second),
        ((field, escape(d.first), escape(d.second)) for field, d in made),
        title="What differs in how they were made",
    )


def _with_interval(skill: SkillDifference) -> str:
    return f"{skill.difference:+.3f} ({skill.low:+.3f} to {skill.high:+.3f})"


@app.command(rich_help_panel=_PANEL)
def trace(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Of a task, a sample or an evaluation item; its beginning will do."
        ),
    ],
) -> None:
    """Tell where one row came from and what came of it: weights, prompt, rewards, selection, training."""
    from selfimp_dagster.trace import trace as history

    found = history(ArtifactStore(settings().store), id_)
    print_rows(
        ("round", "stage", "what"),
        ((event.round, event.stage, escape(event.what)) for event in found.events),
        title=f"{found.kind} {found.id}",
    )


@app.command(rich_help_panel=_PANEL)
def report(
    campaign: Annotated[str, typer.Argument(help="A campaign that the store has rounds of.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; else it goes beside the artifacts.")
    ] = None,
) -> None:
    """Write a campaign's report: one HTML file with curves, tree, examples, evidence, costs, provenance."""
    from selfimp_dagster.report import write_report

    path = write_report(ArtifactStore(settings().store), campaign, out)
    console.print(str(path), soft_wrap=True, highlight=False, markup=False)
