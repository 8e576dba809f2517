"""Interventions of people from the UI: the same log as the command line's."""

from collections.abc import Iterator
from enum import Enum

import dagster as dg
from pydantic import Field

from selfimp_dagster.automation.runs import cancel_queued
from selfimp_dagster.lifecycle.evaluation.report import ASSET
from selfimp_dagster.lifecycle.ledger import STAGES, read_fates, read_ledger, write_ledger
from selfimp_dagster.lifecycle.oversight import Entry, record
from selfimp_dagster.presentation import readable_failures
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore


class OversightAction(Enum):
    """What a person can decide."""

    approve = "approve"
    refuse = "refuse"
    pause = "pause"
    resume = "resume"
    kill = "kill"


class OversightConfig(dg.Config):
    """An intervention of a person."""

    campaign: str = Field(description="Name of the campaign.")
    action: OversightAction = Field(
        description="approve or refuse what a round waits for; pause, resume or kill the campaign."
    )
    round: str | None = Field(
        default=None,
        description="To approve or refuse: the round, for example arithmetic/0001; empty otherwise.",
    )
    who: str = Field(description="Your name.")
    reason: str = Field(description="Why, for those who ask later.")


@dg.op
def record_intervention(
    context: dg.OpExecutionContext, config: OversightConfig, workbench: WorkbenchResource
) -> None:
    """Puts an intervention into the log of its campaign and shows it in the timelines of the assets."""
    with readable_failures():
        entry = record(
            workbench.artifacts,
            workbench.campaigns_folder,
            config.action.value,
            config.campaign,
            round_=RoundKey.parse(config.round) if config.round else None,
            who=config.who,
            reason=config.reason,
        )
        context.log.info(entry.sentence)
        for observation in observations(entry):
            context.log_event(observation)
        carry_out(context.instance, workbench.artifacts, entry)


@dg.job(
    config={
        "ops": {
            "record_intervention": {
                "config": {"campaign": "", "action": "approve", "round": "", "who": "", "reason": ""}
            }
        }
    },
    description="Approves or refuses what a round waits for; pauses, resumes or kills a campaign. Fill in "
    "the launchpad and launch.",
)
def oversight_job() -> None:
    record_intervention()


def carry_out(instance: dg.DagsterInstance, store: ArtifactStore, entry: Entry) -> None:
    """What follows from an intervention at once.

    The queue of a killed campaign is emptied; the check `promoted` and the ledger's file tell an answer.
    """
    if entry.action == "kill":
        cancel_queued(instance, entry.campaign)
    if entry.evidence is not None and entry.evidence.matter == "promotion":
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(ASSET),
                check_name="promoted",
                passed=entry.action == "approve",
                severity=dg.AssetCheckSeverity.WARN,
                description=entry.sentence,
                partition=entry.round,
            )
        )
    if entry.evidence is not None and entry.evidence.matter != "recipe":
        ledger = read_ledger(store, unreadable=[])  # `selfimp doctor` names what is damaged
        write_ledger(store, ledger, read_fates(store, ledger["round"]))


def observations(entry: Entry) -> Iterator[dg.AssetObservation]:
    """An intervention in the UI's timelines: of the ledger, and of what was decided on."""
    metadata: dict[str, str | int] = {
        "intervention": entry.sentence,
        "who": entry.who,
        "reason": entry.reason,
        "entry": entry.sequence,
        "hash": entry.hash,
    }
    yield dg.AssetObservation("round_ledger", metadata={"campaign": entry.campaign, **metadata})
    if entry.evidence is not None:
        decided_on = STAGES[0] if entry.evidence.matter == "recipe" else ASSET
        evidence: dict[str, str] = entry.evidence.model_dump()
        yield dg.AssetObservation(decided_on, partition=entry.round, metadata={**metadata, **evidence})
