"""One step of a campaign's evolution: what the store says of its archive, and the child that comes next."""

import json
from collections.abc import Sequence

import polars as pl

from selfimp_dagster.campaign import Campaign, changes_text
from selfimp_dagster.engines.chat import Reply
from selfimp_dagster.lifecycle.evaluation.continuation import decide
from selfimp_dagster.lifecycle.evolution.archive import Tried, choose_parent, clades
from selfimp_dagster.lifecycle.evolution.proposal import Ask, Proposal, propose
from selfimp_dagster.lifecycle.history import finished_rounds
from selfimp_dagster.lifecycle.judges import Judges
from selfimp_dagster.lifecycle.oversight import halt_sentence, read_standing
from selfimp_dagster.lifecycle.policy import begin, read_policy
from selfimp_dagster.lifecycle.rewards.context import Question
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.records import derive_seed, frame
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

FOLDER = "evolution"
"""The folder of proposals, in that of their campaign: one JSON file for each round that is a child."""

ARCHIVE = pl.Schema(
    {
        "round": pl.String(),
        "parent": pl.String(),
        "changes": pl.String(),  # JSON of what the child changed in its parent's recipe
        "proposed_by": pl.String(),  # null: it was no proposal of the evolution
        "gain": pl.Float64(),  # of the candidate over its incumbent
        "promoted": pl.Boolean(),
        "clade_promoted": pl.Int64(),  # of the round and all that descend from it
        "clade_rejected": pl.Int64(),
        "rejected_replies": pl.List(pl.String()),  # of the model that proposed
    }
)


def read_archive(store: ArtifactStore, campaign: str) -> pl.DataFrame:
    """A row of ARCHIVE for each finished round of a campaign, in the order of the rounds.

    Raises:
        SelfimpError: an artifact or the log of decisions was altered.
    """
    keys = [key for key in store.rounds(campaign) if store.has(key, "eval_report")]
    found = finished_rounds(store, keys)
    parents = {str(key): read_policy(store, key)[0].parent for key in keys}
    archive = [
        Tried(round_, parent, finished.outcome.promoted)
        for (round_, parent), finished in zip(parents.items(), found, strict=True)
    ]
    counted = clades(archive)
    rows = []
    for key, tried, finished in zip(keys, archive, found, strict=True):
        proposal = read_proposal(store, key)
        clade = counted[tried.round]
        rows.append(
            {
                "round": tried.round,
                "parent": tried.parent,
                "changes": json.dumps(proposal.changes if proposal else {}),
                "proposed_by": proposal.proposed_by if proposal else None,
                "gain": finished.summary.signals.gain,
                "promoted": tried.promoted,
                "clade_promoted": clade.promoted,
                "clade_rejected": clade.rejected,
                "rejected_replies": list(proposal.rejected) if proposal else [],
            }
        )
    return frame(rows, ARCHIVE)


def next_child(bench: Workbench, campaign: Campaign, key: RoundKey, budget: int) -> Proposal:
    """What round `key` is to try; the same again if it was proposed before and not finished.

    Args:
        bench: of the installation.
        campaign: as its file is now, with an evolution.
        key: a round that is not finished, after one that is.
        budget: children that the archive is to have in the end.

    Raises:
        SelfimpError: see `propose`; or the proposing model cannot be asked.
    """
    known = read_proposal(bench.store, key)
    if known is not None:
        return known
    assert campaign.evolution is not None
    archive = read_archive(bench.store, campaign.name)
    tried = [Tried(*row) for row in archive.select("round", "parent", "promoted").iter_rows()]
    parent = choose_parent(tried, budget, campaign.seed)
    proposal = propose(
        parent,
        begin(bench.store, bench.campaigns, key, RoundKey.parse(parent)).campaign,
        [json.loads(changes) for changes in archive.filter(parent=parent)["changes"]],
        campaign.evolution,
        derive_seed(campaign.seed, "evolution", "proposal", key.number),
        told_so_far(archive),
        _asking(bench, campaign, RoundKey.parse(parent)),
    )
    bench.store.add_note(_name(key), proposal.model_dump_json(indent=2).encode())
    return read_proposal(bench.store, key) or proposal  # of another machine, if it was first


def stop_reason(store: ArtifactStore, campaign: Campaign) -> str | None:
    """Why no child may start now: people, a hard alarm, the plan, the target or the budget; none if it may.

    Patience does not count: most children fail.
    """
    standing = read_standing(store, campaign.name)
    if standing.state != "running":
        return halt_sentence(campaign.name, standing)
    keys = [key for key in store.rounds(campaign.name) if store.has(key, "eval_report")]
    found = finished_rounds(store, keys)
    if found and found[-1].outcome.obstacle is not None:
        return found[-1].outcome.obstacle
    plan = campaign.continuation.model_copy(update={"patience": len(found) + 1})
    history = [finished.summary for finished in found]
    decision = decide(history, plan, campaign.skill_weights, steering=None)
    return None if decision.proceed else decision.reason


def told_so_far(archive: pl.DataFrame) -> str:
    """What the children came to, a line each, the best gains first; empty without any."""
    best = archive.drop_nulls("gain").filter(pl.col("changes") != "{}").sort("gain", descending=True).head(8)
    return "\n".join(
        f"{changes_text(json.loads(row['changes']))}: accuracy {row['gain']:+.3f}, "
        f"{'kept' if row['promoted'] else 'not kept'}"
        for row in best.iter_rows(named=True)
    )


def read_proposal(store: ArtifactStore, key: RoundKey) -> Proposal | None:
    """The proposal of a round; none if there is none."""
    found = store.note(_name(key))
    return None if found is None else Proposal.model_validate_json(found)


def _name(key: RoundKey) -> str:
    return f"{key.campaign}/{FOLDER}/{key.number:04d}.json"


def _asking(bench: Workbench, campaign: Campaign, parent: RoundKey) -> Ask | None:
    evolution = campaign.evolution
    if evolution is None or evolution.proposer is None:
        return None
    source, sampling = evolution.proposer, evolution.sampling
    policy, _ = read_policy(bench.store, parent)
    judges = Judges(bench, policy, bench.store.folder / campaign.name / FOLDER / ".replies")

    def ask(questions: Sequence[Question]) -> list[Reply]:
        return judges.judge(source).ask(questions, sampling, label="proposing")

    return ask
