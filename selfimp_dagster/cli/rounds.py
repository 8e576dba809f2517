"""Rounds: run them, and see how they stand."""

import json
from typing import Annotated, Any

import polars as pl
import typer
import yaml
from rich.markup import escape

from selfimp_dagster.campaign import changes_text
from selfimp_dagster.cli.app import CampaignName, app
from selfimp_dagster.console import (
    console,
    errors,
    print_dimensions,
    print_directives,
    print_gaps,
    print_ledger,
    print_monitors,
    print_rows,
)
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import dimensions_of, read_monitors
from selfimp_dagster.lifecycle.evolution.proposal import Proposal
from selfimp_dagster.lifecycle.evolution.stage import read_archive
from selfimp_dagster.lifecycle.ledger import read_fates, read_ledger
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.oversight import open_questions
from selfimp_dagster.lineage.inventory import take_inventory
from selfimp_dagster.presets import merged
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import settings
from selfimp_dagster.store import ArtifactStore

_PANEL = "Rounds"


@app.command(rich_help_panel=_PANEL)
def run(
    campaign: CampaignName,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds to run at most; a decision may stop before.")
    ] = 1,
    parent: Annotated[
        str | None, typer.Option(help="Branch: start the first of these rounds from this earlier round.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe from the first of these rounds on, for example "
            "optimization.learning_rate=5e-5; may be given several times.",
        ),
    ] = None,
) -> None:
    """Run the next rounds of a campaign here, with progress bars; go on where it was left.

    The rounds are ordinary runs of the Dagster job `round_job` and show in the UI like any other.
    """
    from selfimp_dagster.progress import TerminalProgress, showing
    from selfimp_dagster.resources.workbench import WorkbenchResource
    from selfimp_dagster.rounds_in_process import open_instance, run_round

    where = settings()
    store = ArtifactStore.at(where)
    branch = RoundKey.parse(parent) if parent else None
    recipe = _recipe(changes or [])
    workbench = WorkbenchResource.at(where)
    with open_instance(where.home) as instance, showing(TerminalProgress()):
        for _ in range(rounds):
            following = next_round(store, where.campaigns, campaign)
            # Who names a parent or another recipe has decided that the round starts.
            if branch is None and not recipe and not following.decision.proceed:
                console.print(f"[yellow]{escape(following.decision.reason)}")
                break
            console.rule(f"round {following.key}", align="left")
            run_round(instance, workbench, following.key, branch, recipe)
            branch, recipe = None, {}
    print_ledger(read_ledger(store, campaign))
    console.print("See it all: [bold]selfimp ui[/bold]")


def _recipe(settings: list[str]) -> dict[str, Any]:
    """Settings `stage.field=value` as a part of a recipe; values are YAML."""
    recipe: dict[str, Any] = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        try:
            value = _value(text)
        except yaml.YAMLError as error:
            raise SelfimpError(
                f"{text!r} is not a value of YAML", where=f"--set {setting}", fix="correct its quoting"
            ) from error
        if not equals or not all(field.split(".")):
            raise SelfimpError(
                "not a field and its value",
                where=f"--set {setting}",
                fix="write it as optimization.learning_rate=5e-5",
            )
        for name in reversed(field.split(".")):
            value = {name: value}
        recipe = merged(recipe, value)
    return recipe


def _value(text: str) -> Any:
    try:
        return json.loads(text)  # YAML that its 1.1 reads otherwise: 5e-5 would be text
    except json.JSONDecodeError:
        return yaml.safe_load(text)


@app.command(rich_help_panel=_PANEL)
def evolve(
    campaign: CampaignName,
    budget: Annotated[
        int, typer.Option(min=1, help="Children that the archive has in the end, with those that are there.")
    ],
) -> None:
    """Search the campaign's space of recipes: each child changes one field and must pass the promotion rule.

    A child is a branch from the recipe whose descendants did best. Killed, it goes on where it was.
    """
    from selfimp_dagster.evolve import evolve as run_evolution
    from selfimp_dagster.progress import TerminalProgress, showing
    from selfimp_dagster.resources.workbench import WorkbenchResource
    from selfimp_dagster.rounds_in_process import open_instance

    def show(key: RoundKey, proposal: Proposal | None) -> None:
        console.rule(f"round {key}", align="left")
        if proposal is not None:
            told = f"child of {proposal.parent} by {proposal.proposed_by}: {changes_text(proposal.changes)}"
            console.print(escape(told), highlight=False)

    where = settings()
    with open_instance(where.home) as instance, showing(TerminalProgress()):
        ended = run_evolution(instance, WorkbenchResource.at(where), campaign, budget, show)
    archive = read_archive(ArtifactStore.at(where), campaign).drop("rejected_replies")
    print_rows(archive.columns, archive.iter_rows(), title=f"Archive of {campaign}")
    console.print(escape(ended), highlight=False)


@app.command(rich_help_panel=_PANEL)
def status(
    campaign: Annotated[str | None, typer.Argument(help="Only this campaign.")] = None,
) -> None:
    """Show every finished round: accuracies with intervals, verdict, decision, cost; and what comes next.

    Of each campaign's newest round the four dimensions are shown, with 95 % intervals, and the monitors.
    """
    where = settings()
    store = ArtifactStore.at(where)
    unreadable: list[SelfimpError] = []
    ledger = read_ledger(store, campaign, unreadable)
    if ledger.is_empty():
        console.print("No round is finished yet. Start one: selfimp run CAMPAIGN")
    else:
        print_ledger(ledger)
        directives = read_fates(store, ledger["round"])
        if not directives.is_empty():
            print_directives(directives)
    for name in sorted({key.campaign for key in store.rounds(campaign)}):
        finished = ledger.filter(pl.col("round").str.starts_with(f"{name}/"))["round"].to_list()
        try:
            newest = dimensions_of(store, [RoundKey.parse(key) for key in finished[-1:]])
            if not newest.is_empty():
                print_dimensions(newest, title=f"Dimensions of {finished[-1]} (95 % interval)")
            readings = [r for key in finished[-1:] for r in read_monitors(store, RoundKey.parse(key))]
            if readings:
                print_monitors(readings, title=f"Monitors of {finished[-1]}")
            following = next_round(store, where.campaigns, name)
            waiting = open_questions(store, name)
        except SelfimpError as error:
            console.print(escape(f"{name}: what comes next is not known. {error}"), highlight=False)
            continue
        verb = "next" if following.decision.proceed else "would be next"
        console.print(escape(f"{name}: {following.key} {verb}. {following.decision.reason}"))
        for directive in following.decision.directives:
            console.print(escape(f"{name}: {directive.sentence}"))
        for question in waiting:
            if question.sentence != following.decision.reason:
                console.print(escape(f"{name}: {question.sentence}"))
    gaps = take_inventory(store).gaps
    print_gaps([gap for gap in gaps if campaign in (None, RoundKey.parse(gap.round).campaign)])
    for reason in unreadable:
        errors.print(f"[yellow]left out[/yellow] {escape(str(reason))}", highlight=False, soft_wrap=True)
