"""`selfimp`: the same definitions and decision functions as the Dagster UI, from a terminal."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from selfimp_dagster.campaign import SUFFIX, campaign_schema, load_campaign, parse_campaign
from selfimp_dagster.console import console, print_ledger, print_rows
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.comparison import SkillDifference
from selfimp_dagster.lifecycle.evaluation.comparison import compare as compare_rounds
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.registry import all_methods
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import settings
from selfimp_dagster.store import ArtifactStore

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Closed-loop self-improvement of language models.

A **campaign** (one YAML file) improves a model in **rounds**. A round samples from the incumbent,
selects what is worth learning, trains a candidate, refines its outputs, and measures both; the
verdict promotes the candidate or not, and the decision says whether a next round starts.

Start with `selfimp validate arithmetic`, then `selfimp run arithmetic --rounds 2`, then `selfimp ui`.
""",
)

CODE_LOCATION = {"module_name": "selfimp_dagster.definitions", "location_name": "selfimp_dagster"}

CampaignName = Annotated[str, typer.Argument(help="Name of a campaign in the campaigns folder.")]


@app.command()
def init(name: Annotated[str, typer.Argument(help="Name of the new campaign.")]) -> None:
    """Write a new campaign file that explains itself, ready to run."""
    text = (files("selfimp_dagster") / "campaign_template.yaml").read_text().format(name=name)
    path = settings().campaigns / f"{name}{SUFFIX}"
    if path.exists():
        raise SelfimpError("it exists already", where=str(path), fix="choose another name, or edit that file")
    import yaml

    parse_campaign(yaml.safe_load(text), where=f"campaign {name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    console.print(f"Wrote {path}. Next: selfimp validate {name}, then selfimp run {name}.")


@app.command()
def run(
    campaign: CampaignName,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds to run at most; a decision may stop before.")
    ] = 1,
    parent: Annotated[
        str | None, typer.Option(help="Branch: start the first of these rounds from this earlier round.")
    ] = None,
) -> None:
    """Run the next rounds of a campaign here, with progress bars; go on where it was left.

    The rounds are ordinary runs of the Dagster job `round_job` and show in the UI like any other.
    """
    from selfimp_dagster.progress import TerminalProgress, showing
    from selfimp_dagster.resources.workbench import WorkbenchResource
    from selfimp_dagster.rounds_in_process import open_instance, run_round

    where = settings()
    store = ArtifactStore(where.store)
    branch = RoundKey.parse(parent) if parent else None
    workbench = WorkbenchResource.at(where)
    with open_instance(where.home) as instance, showing(TerminalProgress()):
        for _ in range(rounds):
            following = next_round(store, where.campaigns, campaign)
            if branch is None and not following.decision.proceed:
                console.print(f"[yellow]{following.decision.reason}")
                break
            console.rule(f"round {following.key}", align="left")
            run_round(instance, workbench, following.key, branch)
            branch = None
    print_ledger(read_ledger(store, campaign))
    console.print("See it all: [bold]selfimp ui[/bold]")


@app.command()
def status(
    campaign: Annotated[str | None, typer.Argument(help="Only this campaign.")] = None,
) -> None:
    """Show every finished round: accuracies with intervals, verdict, decision, cost; and what comes next."""
    where = settings()
    store = ArtifactStore(where.store)
    ledger = read_ledger(store, campaign)
    if ledger.is_empty():
        console.print("No round is finished yet. Start one: selfimp run CAMPAIGN")
    else:
        print_ledger(ledger)
    for name in sorted({key.campaign for key in store.rounds(campaign)}):
        following = next_round(store, where.campaigns, name)
        verb = "next" if following.decision.proceed else "would be next"
        console.print(f"{name}: {following.key} {verb}. {following.decision.reason}")


@app.command()
def methods() -> None:
    """List every method that a recipe can name: stage, survey section, paper, needs, parameters."""
    known = all_methods()
    print_rows(
        ("method", "stage", "survey", "paper", "needs"),
        ((m.name, m.stage, m.section, m.paper, ", ".join(sorted(m.needs))) for m in known),
    )
    for method in known:
        console.print(f"[bold]{method.name}[/bold]: {escape(method.summary)}", highlight=False)
        for name, field in method.parameters.model_fields.items():
            default = field.get_default(call_default_factory=True)
            console.print(f"    {name} = {default}  [dim]{field.description}[/dim]", highlight=False)


@app.command()
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


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A finished round, for example arithmetic/0001.")],
    second: Annotated[str, typer.Argument(help="Another finished round, for example of another branch.")],
) -> None:
    """Compare two rounds: their candidates on the same items, and what differs in how they were made."""
    found = compare_rounds(ArtifactStore(settings().store), RoundKey.parse(first), RoundKey.parse(second))
    print_rows(
        ("suite", "skill", "items", first, second, "difference (95 % interval)"),
        (
            (s.suite, s.skill, s.n, f"{s.first:.3f}", f"{s.second:.3f}", _with_interval(s))
            for s in found.skills
        ),
        title="The candidates on the items that both answered",
    )
    console.print(found.sentence, highlight=False)
    console.print(
        f"Trained on {found.rows_of_both} rows in both, {found.rows_of_first} in {first} alone, "
        f"{found.rows_of_second} in {second} alone.",
        highlight=False,
    )
    print_rows(
        ("field", first, second),
        ((d.field, escape(d.first), escape(d.second)) for d in found.made),
        title="What differs in how they were made",
    )


def _with_interval(skill: SkillDifference) -> str:
    return f"{skill.difference:+.3f} ({skill.low:+.3f} to {skill.high:+.3f})"


@app.command()
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


@app.command()
def doctor() -> None:
    """Say what works on this machine: cores, GPU, engines, model, disk, versions."""
    from selfimp_dagster.doctor import examine

    findings = list(examine(settings()))
    print_rows(
        ("", "subject", "finding"),
        (("[green]ok" if f.works else "[red]no", f.subject, f.detail) for f in findings),
    )
    if not all(finding.works for finding in findings):
        raise typer.Exit(1)


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A campaign file, or the name of a campaign.")],
) -> None:
    """Check a campaign file: fields, methods, task sources, pools, and the power of its test."""
    from selfimp_dagster.lifecycle.evaluation.items import evaluation_items

    path = file if file.suffix or file.exists() else settings().campaigns / f"{file}{SUFFIX}"
    campaign = load_campaign(path)
    items = evaluation_items(campaign, 0, path.parent)
    print_rows(
        ("pool", "skill", "items"),
        items.group_by("pool", "skill").len().sort("pool", "skill").iter_rows(),
        title=f"{campaign.name}: evaluation items of round 0000",
    )
    console.print(f"[green]{path} is a valid campaign.")


@app.command()
def schema() -> None:
    """Print the JSON schema of a campaign file, for editors that complete and check YAML."""
    sys.stdout.write(json.dumps(campaign_schema(), indent=2, sort_keys=True) + "\n")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 3000) -> None:
    """Start the Dagster UI and its daemon on this machine's loopback interface, on the same instance."""
    from selfimp_dagster.rounds_in_process import prepare_home

    where = settings()
    prepare_home(where.home)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(where.home),
        "SELFIMP_HOME": str(where.home),
        "SELFIMP_CAMPAIGNS": str(where.campaigns),
    }
    workspace = where.home / "workspace.yaml"
    workspace.write_text(json.dumps({"load_from": [{"python_module": CODE_LOCATION}]}))  # JSON is YAML
    location = ["-w", str(workspace)]
    commands = [
        [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *location],
        [sys.executable, "-m", "dagster._daemon", "run", *location],
    ]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    console.print(f"Dagster UI: http://127.0.0.1:{port}  (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def main() -> None:
    """The entry point: errors that are written for people are shown as such."""
    try:
        app()
    except SelfimpError as error:
        console.print(
            f"[red]{error.where}:[/red] {error.what}\n  [bold]->[/bold] {error.fix}", highlight=False
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
