"""Lineage: where rounds and rows came from, and what came of them."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from selfimp_dagster.cli.app import app
from selfimp_dagster.console import console, errors, print_gaps, print_rows, text, write_csv, write_json
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.comparison import SkillDifference
from selfimp_dagster.lifecycle.evaluation.comparison import compare as compare_rounds
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import settings
from selfimp_dagster.store import ArtifactStore

if TYPE_CHECKING:
    from selfimp_dagster.lineage.reproduce import Outcome
    from selfimp_dagster.lineage.trace import Event

_PANEL = "Lineage"
_ROWS_SHOWN = 200
_EVENTS_SHOWN = 12  # of one kind


@app.command(rich_help_panel=_PANEL)
def sql(
    query: Annotated[
        str | None, typer.Argument(help="SQL over the views; without it the views are listed.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print all rows as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rows as a JSON array.")] = False,
    parquet: Annotated[Path | None, typer.Option(help="Write all rows into this Parquet file.")] = None,
) -> None:
    """Ask the artifact store with SQL (DuckDB): tasks, samples, rewards, selection, evaluations, ..."""
    from selfimp_dagster.lineage.views import LISTING, ask

    if csv + as_json + (parquet is not None) > 1:
        raise SelfimpError("several outputs", where="sql", fix="choose one of --csv, --json and --parquet")
    store = ArtifactStore.at(settings())
    if parquet is not None:
        answer = ask(store, query or LISTING, into=parquet)
        print_gaps(answer.inventory.damage)
        console.print(f"Wrote {parquet}.", highlight=False)
        return
    answer = ask(store, query or LISTING)
    print_gaps(answer.inventory.damage)
    if csv:
        write_csv(answer.columns, answer.rows())
    elif as_json:
        write_json(answer.columns, answer.rows())
    else:
        shown = list(islice(answer.rows(), _ROWS_SHOWN + 1))
        print_rows(answer.columns, ([escape(text(value)) for value in row] for row in shown[:_ROWS_SHOWN]))
        if len(shown) > _ROWS_SHOWN:
            errors.print(
                f"These are the first {_ROWS_SHOWN} rows; --csv, --json or --parquet FILE gives all of them."
            )


@app.command(rich_help_panel=_PANEL)
def compare(
    first: Annotated[str, typer.Argument(help="A finished round, for example arithmetic/0001.")],
    second: Annotated[str, typer.Argument(help="Another finished round, for example of another branch.")],
) -> None:
    """Compare two rounds: their candidates on the same items, and what differs in how they were made."""
    found = compare_rounds(ArtifactStore.at(settings()), RoundKey.parse(first), RoundKey.parse(second))
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
def reproduce(
    round_: Annotated[str, typer.Argument(metavar="ROUND", help="A round, for example arithmetic/0001.")],
    keep: Annotated[
        Path | None,
        typer.Option(
            help="A new folder to leave the artifacts of the second run in, as the home of a store."
        ),
    ] = None,
) -> None:
    """Run a recorded round again beside the store, and say for each artifact whether it came out the same.

    Ends with exit code 0 if everything is identical, else with 1. The store is only read.
    """
    from selfimp_dagster.lineage.reproduce import reproduce as run_again
    from selfimp_dagster.progress import TerminalProgress

    where, key = settings(), RoundKey.parse(round_)
    with _scratch(keep) as scratch:
        console.rule(f"round {key} again", align="left")
        found = run_again(
            ArtifactStore.at(where),
            key,
            campaigns=where.campaigns,
            models=where.models,
            scratch=scratch,
            progress=TerminalProgress(),
        )
    print_rows(
        ("artifact", "again", "where it first differs"),
        ((o.asset, _state(o), escape(_where(o))) for o in found.outcomes),
    )
    if found.conditions:
        print_rows(
            ("condition", "recorded", "now"),
            ((c.place, c.recorded, c.now) for c in found.conditions),
            title="Not as it was then: possible causes",
        )
    if not found.conditions_recorded:
        console.print("The record does not say everything that it was made on: it is from an older version.")
    console.print(f"[{'green' if found.identical else 'red'}]{escape(found.sentence)}", highlight=False)
    raise typer.Exit(0 if found.identical else 1)


@contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with TemporaryDirectory(prefix="selfimp-reproduce-") as folder:
            yield Path(folder)
        return
    if keep.exists():
        raise SelfimpError("it exists already", where=f"--keep {keep}", fix="name a folder that does not")
    yield keep


def _where(outcome: "Outcome") -> str:
    """The first difference of an artifact in full, and the names of the other files that differ."""
    if not outcome.differences:
        return outcome.note
    first, *others = outcome.differences
    lines = [f"{first.file}: {first.place}", f"recorded {first.recorded}", f"now {first.now}"]
    lines += [first.extent] if first.extent else []
    lines += [f"also: {', '.join(other.file for other in others)}"] if others else []
    return "\n".join([*lines, outcome.note] if outcome.note else lines)


def _state(outcome: "Outcome") -> str:
    if not outcome.follows_from:
        return outcome.state
    return f"{outcome.state}: follows from {' and '.join(outcome.follows_from)}"


@app.command(rich_help_panel=_PANEL)
def replay(
    round_: Annotated[str, typer.Argument(metavar="ROUND", help="A round, for example arithmetic/0001.")],
    episode: Annotated[
        str | None,
        typer.Argument(help="Only this episode, which is then told; the beginning of its id will do."),
    ] = None,
) -> None:
    """Play a round's recorded episodes again, and say for each whether it is identical or where it differs.

    What the policy said is taken from the record; its weights are not needed. Ends with exit code 0 if
    everything is identical, else with 1.
    """
    from selfimp_dagster.lineage.replay import replay_episodes

    with errors.status("Playing again"):
        found = list(replay_episodes(ArtifactStore.at(settings()), RoundKey.parse(round_), episode or ""))
    if episode:
        for played in found:
            console.rule(f"{played.row['environment']} of {played.row['arm']}", align="left")
            for message in played.row["messages"]:
                speaker = "environment" if message["role"] == "user" else "policy"
                console.print(f"[bold]{speaker}[/bold]\n{escape(message['content'])}\n", highlight=False)
    print_rows(
        ("episode", "environment", "arm", "turns", "end", "outcome", "process", "again"),
        (
            (
                *(row[name] for name in ("episode_id", "environment", "arm", "turns", "ending")),
                *("-" if row[name] is None else f"{row[name]:.3f}" for name in ("outcome", "process")),
                escape(played.difference or "identical"),
            )
            for played in found
            for row in [played.row]
        ),
    )
    different = sum(played.difference is not None for played in found)
    sentence = f"{different} of {len(found)} episodes differ" if different else "Every episode is identical"
    console.print(f"[{'red' if different else 'green'}]{sentence}.", highlight=False)
    raise typer.Exit(1 if different else 0)


@app.command(rich_help_panel=_PANEL)
def trace(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Of a task, a sample or an evaluation item; its beginning will do."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print all events with all fields.")] = False,
) -> None:
    """Tell where one row came from and what came of it: weights, prompt, rewards, selection, training."""
    from selfimp_dagster.lineage.trace import trace as history

    with errors.status("Looking for the row"):
        found = history(ArtifactStore.at(settings()), id_)
    if as_json:
        sys.stdout.write(found.as_json() + "\n")
    else:
        print_rows(
            ("round", "stage", "what"),
            ((round_, stage, escape(what)) for round_, stage, what in _condensed(found.events)),
            title=f"{found.kind} {found.id}",
        )
    print_gaps(found.gaps)


def _condensed(events: Sequence["Event"]) -> Iterator[tuple[str, str, str]]:
    """Round, stage and sentence of every event; of each kind only the first few, and how many follow."""
    counts = Counter(event.kind for event in events)
    last = {event.kind: event for event in events}
    told: Counter[str] = Counter()
    for event in events:
        told[event.kind] += 1
        more = counts[event.kind] - _EVENTS_SHOWN
        if told[event.kind] <= _EVENTS_SHOWN:
            yield event.round, event.stage, event.what
        elif told[event.kind] == _EVENTS_SHOWN + 1:
            until = last[event.kind].round
            yield (
                event.round,
                event.stage,
                f"... and {more} more like it ({event.kind}), until {until}",
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

    path = write_report(ArtifactStore.at(settings()), campaign, out)
    console.print(str(path), soft_wrap=True, highlight=False, markup=False)
