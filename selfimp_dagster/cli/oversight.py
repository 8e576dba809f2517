"""People in the loop: approve, refuse, pause, resume, kill; and what was decided."""

import getpass
from typing import Annotated

import typer
from rich.markup import escape

from selfimp_dagster.cli.app import CampaignName, app
from selfimp_dagster.console import console, print_rows
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.oversight import (
    Action,
    halt_sentence,
    open_questions,
    read_log,
    record,
    require_campaign,
    standing_after,
)
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import settings
from selfimp_dagster.store import ArtifactStore

_PANEL = "People in the loop"


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # a user without a name has to give one


RoundName = Annotated[
    str, typer.Argument(metavar="ROUND", help="A round that waits, for example arithmetic/0001.")
]
Reason = Annotated[str, typer.Option(help="Why, for those who ask later.")]
Who = Annotated[str, typer.Option(default_factory=_login, show_default="your login", help="Your name.")]


@app.command(rich_help_panel=_PANEL)
def approve(round_: RoundName, reason: Reason, who: Who) -> None:
    """Approve what a round waits for: its promotion, its recipe, or going on after its alarm."""
    key = RoundKey.parse(round_)
    _decide("approve", key.campaign, key, who, reason)


@app.command(rich_help_panel=_PANEL)
def refuse(round_: RoundName, reason: Reason, who: Who) -> None:
    """Refuse it: the incumbent stays, the recipe is not used, the campaign stays stopped after its alarm."""
    key = RoundKey.parse(round_)
    _decide("refuse", key.campaign, key, who, reason)


@app.command(rich_help_panel=_PANEL)
def pause(campaign: CampaignName, reason: Reason, who: Who) -> None:
    """Let the round in flight finish, and start no other."""
    _decide("pause", campaign, None, who, reason)


@app.command(rich_help_panel=_PANEL)
def kill(campaign: CampaignName, reason: Reason, who: Who) -> None:
    """End the rounds in flight within seconds, and start no other; what was sampled is kept."""
    _decide("kill", campaign, None, who, reason)


@app.command(rich_help_panel=_PANEL)
def resume(campaign: CampaignName, reason: Reason, who: Who) -> None:
    """Lift a pause or a kill."""
    _decide("resume", campaign, None, who, reason)


@app.command(rich_help_panel=_PANEL)
def oversight(campaign: CampaignName) -> None:
    """Show how a campaign stands, what waits for a person, and all interventions, the chain verified."""
    where = settings()
    store = ArtifactStore.at(where)
    require_campaign(store, where.campaigns, campaign)
    entries = read_log(store, campaign)
    standing = standing_after(entries)
    halted = standing.state != "running"
    console.print(halt_sentence(campaign, standing) if halted else f"{campaign} is running.", highlight=False)
    for question in open_questions(store, campaign):
        console.print(f"[yellow]{escape(question.sentence)}", highlight=False)
    print_rows(
        ("entry", "intervention", "evidence", "hash"),
        (
            (
                entry.sequence,
                escape(entry.sentence),
                f"{entry.evidence.matter} {entry.evidence.version[:16]}" if entry.evidence else None,
                entry.hash[:16],
            )
            for entry in entries
        ),
        title="Interventions",
    )
    if entries:
        console.print(
            f"The chain holds: {len(entries)} entries in {oversight_log.place(store, campaign)}, "
            f"the last one with the hash\n{entries[-1].hash}",
            highlight=False,
        )


def _decide(action: Action, campaign: str, round_: RoundKey | None, who: str, reason: str) -> None:
    where = settings()
    store = ArtifactStore.at(where)
    entry = record(store, where.campaigns, action, campaign, round_=round_, who=who, reason=reason)
    console.print(f"{escape(entry.sentence)}\nentry {entry.sequence}, hash {entry.hash}", highlight=False)
    if (where.home / "dagster.yaml").exists():
        from selfimp_dagster.automation.oversight_job import carry_out, observations
        from selfimp_dagster.rounds_in_process import open_instance

        with open_instance(where.home) as instance:
            for observation in observations(entry):
                instance.report_runless_asset_event(observation)
            carry_out(instance, store, entry)
