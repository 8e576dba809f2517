"""Evolution of a campaign in this process: children one after the other, each a round with its gate."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from selfimp_dagster.campaign import SUFFIX, load_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evolution.proposal import Proposal
from selfimp_dagster.lifecycle.evolution.stage import next_child, read_proposal, stop_reason
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.progress import LogProgress, shown_or
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import run_round

_START, _REPORT = "incumbent_policy", "eval_report"


def evolve(
    instance: dg.DagsterInstance,
    workbench: WorkbenchResource,
    name: str,
    budget: int,
    on_child: Callable[[RoundKey, Proposal | None], None] = lambda key, proposal: None,
) -> str:
    """Runs rounds until the campaign has one more than `budget`; says why it ended.

    The first round has the campaign's own recipe; every other is a child. What is finished or was begun is
    not done again: whoever was killed goes on by asking for the same.

    Args:
        instance: where the rounds are recorded.
        workbench: of the installation.
        name: of the campaign.
        budget: children that it is to have in the end, those that are there included.
        on_child: told before each round: its key and what it is to try.

    Raises:
        SelfimpError: the campaign has no `evolution`, or a round failed.
    """
    campaign = load_campaign(workbench.campaigns_folder / f"{name}{SUFFIX}")
    if campaign.evolution is None:
        raise SelfimpError(
            "the campaign says no space to search",
            where=f"{name}{SUFFIX}: evolution",
            fix="add `evolution:` with a `space:` of fields and what each may be (docs/evolution.md)",
        )
    store = workbench.artifacts
    bench = Workbench(
        store,
        workbench.engines.pool,
        Path(workbench.models),
        workbench.campaigns_folder,
        shown_or(LogProgress(lambda line: None)),
    )
    while True:
        keys = list(store.rounds(name))
        begun = bool(keys) and not store.has(keys[-1], _REPORT)
        key = keys[-1] if begun else keys[-1].next if keys else RoundKey(name, 0)
        if not begun:
            if key.number > budget:
                return f"{budget} children were tried."
            reason = stop_reason(store, campaign)
            if reason is not None:
                return reason
        if begun and store.has(key, _START):
            proposal = read_proposal(store, key)  # a person's round has none: it goes on as it was begun
        else:
            proposal = next_child(bench, campaign, key, budget) if key.number > 0 else None
        on_child(key, proposal)
        if proposal is None:
            run_round(instance, workbench, key)
        else:
            run_round(instance, workbench, key, RoundKey.parse(proposal.parent), proposal.changes)
