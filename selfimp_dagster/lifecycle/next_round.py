"""Which round comes next, and whether it should: asked by the sensor, the schedule and the CLI alike."""

from dataclasses import dataclass
from pathlib import Path

from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.lifecycle.evaluation.continuation import Decision
from selfimp_dagster.lifecycle.history import decide_after, finished_rounds
from selfimp_dagster.lifecycle.oversight import Standing, halt_sentence, read_standing, recipe_question
from selfimp_dagster.lifecycle.policy import begin, read_policy
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore


@dataclass(frozen=True)
class NextRound:
    """The next round of a campaign and the decision on it."""

    key: RoundKey
    decision: Decision


def next_round(store: ArtifactStore, campaigns: Path, campaign: str) -> NextRound:
    """The round that comes after all that the store holds of a campaign.

    A round that was started and has no report yet comes first. Nothing comes while the campaign is paused
    or killed, or while a person has something to approve.

    Raises:
        SelfimpError: the campaign cannot be read, or an artifact or the log of decisions was altered.
    """
    plan = load_campaign(campaigns / f"{campaign}.yaml")
    standing = read_standing(store, campaign)
    keys = list(store.rounds(campaign))
    if keys and not store.has(keys[-1], "eval_report"):
        following = NextRound(keys[-1], _finish(store, campaigns, keys[-1], standing))
    else:
        line = read_policy(store, keys[-1])[0].line if keys else ()
        decision = decide_after(finished_rounds(store, line), plan)
        following = NextRound(keys[-1].next if keys else RoundKey(campaign, 0), decision)
    if standing.state != "running":
        halted = Decision(proceed=False, reason=halt_sentence(campaign, standing))
        return NextRound(following.key, halted)
    return following


def _finish(store: ArtifactStore, campaigns: Path, key: RoundKey, standing: Standing) -> Decision:
    """Whether a round that was started goes on, or starts anew because its campaign file was changed."""
    begun = Decision(proceed=True, reason=f"Proceeds: {key} was started and is not finished.")
    if not store.has(key, "incumbent_policy"):
        return begun
    policy, _ = read_policy(store, key)
    parent = RoundKey.parse(policy.parent) if policy.parent else None
    question = recipe_question(store, key, standing)
    if (
        question is None
        or (question.answer is not None and question.answer.action == "approve")
        or not begin(store, campaigns, key, parent, policy.recipe_changes).is_that_of(policy)
    ):
        return begun
    stopped = question.sentence if question.answer is None else f"Stopped: {question.sentence}"
    return Decision(proceed=False, reason=stopped)
