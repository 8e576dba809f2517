"""Which round comes next, and whether it should: asked by the sensor, the schedule and the CLI alike."""

from dataclasses import dataclass
from pathlib import Path

from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.lifecycle.evaluation.continuation import Decision, decide
from selfimp_dagster.lifecycle.history import read_history
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore


@dataclass(frozen=True)
class NextRound:
    """The next round of a campaign and the decision on it."""

    key: RoundKey
    decision: Decision


def next_round(store: ArtifactStore, campaigns: Path, campaign: str) -> NextRound:
    """The round that comes after all that the store holds of a campaign.

    A round that was started and has no report yet comes first.

    Raises:
        SelfimpError: the campaign cannot be read, or an artifact was altered.
    """
    plan = load_campaign(campaigns / f"{campaign}.yaml")
    keys = list(store.rounds(campaign))
    if not keys:
        return NextRound(RoundKey(campaign, 0), decide([], plan.continuation, plan.skill_weights))
    last = keys[-1]
    if not store.has(last, "eval_report"):
        return NextRound(
            last, Decision(proceed=True, reason=f"Proceeds: {last} was started and is not finished.")
        )
    policy, _ = read_policy(store, last)
    history = read_history(store, policy.line)
    return NextRound(last.next, decide(history, plan.continuation, plan.skill_weights))
