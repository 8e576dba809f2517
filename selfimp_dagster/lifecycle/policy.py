"""Which weights a round starts from, and what else it is given: the head of every round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.campaign import Campaign, load_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import Directive, SwitchRecipe
from selfimp_dagster.lifecycle.evaluation.environments import require_environments
from selfimp_dagster.lifecycle.history import decide_for, read_history
from selfimp_dagster.lifecycle.obedience import Obeyed, obey_start
from selfimp_dagster.lifecycle.oversight import read_outcome, unapproved
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import file_sha256, policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.records import derive_seed
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore
from selfimp_dagster.tasks.suites import FileSource

ASSET = "incumbent_policy"


class Policy(BaseModel):
    """The start of a round.

    `parent` is the round before it in its line (none for a first round), `ancestors` that line from
    its first round on, `weights_round` the round whose checkpoint the weights are (none: the base model).
    `recipe_changes` is what the line has changed in the recipe of the campaign file since its first round;
    `campaign` has these changes in it, and beneath them those of `strategy`: which of the campaign's further
    recipes steering chose for the round (none: its own).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: str
    parent: str | None
    ancestors: tuple[str, ...]
    weights_round: str | None
    policy_hash: str
    seed: int
    directives: tuple[Directive, ...]
    tokens_left: int | None
    seconds_left: float | None
    campaign: Campaign
    recipe_changes: dict[str, Any] = Field(default_factory=dict)
    strategy: str | None = None

    @property
    def line(self) -> tuple[RoundKey, ...]:
        """The rounds that led here, from the first to this one."""
        return tuple(RoundKey.parse(text) for text in (*self.ancestors, self.round))


@dataclass(frozen=True)
class Beginning:
    """Where a round begins in the tree of rounds, and the campaign that it is to follow there."""

    parent: RoundKey | None
    recipe_changes: dict[str, Any]
    campaign: Campaign
    strategy: str | None = None

    @classmethod
    def of(cls, policy: Policy) -> "Beginning":
        """The beginning of a round that was started, as it recorded it."""
        parent = RoundKey.parse(policy.parent) if policy.parent else None
        return cls(parent, policy.recipe_changes, policy.campaign, policy.strategy)

    def is_that_of(self, policy: Policy) -> bool:
        """Whether a round that began as `policy` says would begin the same way now."""
        return self == Beginning.of(policy)


def begin(
    store: ArtifactStore,
    campaigns: Path,
    key: RoundKey,
    parent: RoundKey | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Beginning:
    """The parent of round `key` and the campaign file as it is now, with the recipe of the round's line.

    `parent` starts a branch from any earlier round of the campaign; without it the parent is the
    round before. `recipe` is a part of a recipe: what the round changes on top of what its line has
    changed before. Pools, evaluation and promotion stay, so that branches answer the same items.

    Raises:
        SelfimpError: the campaign cannot be read, the parent is no earlier round that is finished, or
            the changed recipe is none.
    """
    campaign = load_campaign(campaigns / f"{key.campaign}.yaml")
    if parent is None and key.number > 0:
        parent = RoundKey(key.campaign, key.number - 1)
    inherited: dict[str, Any] = {}
    if parent is not None:
        if parent.campaign != key.campaign or parent >= key:
            raise SelfimpError(
                f"{parent} cannot be the parent of {key}",
                where="incumbent_policy: parent",
                fix="name an earlier round of the same campaign",
            )
        if not store.has(parent, "eval_report"):
            raise SelfimpError(
                f"its parent round {parent} has no evaluation report yet",
                where=f"{key} {ASSET}",
                fix=f"finish round {parent} first (materialize its eval_report), or name another parent",
            )
        inherited = read_policy(store, parent)[0].recipe_changes
    changes = campaign.recipe.joined_changes(inherited, recipe or {})
    strategy = _chosen_strategy(store, parent, campaign) if parent and campaign.strategies else None
    of_strategy = campaign.strategies[strategy] if strategy else {}
    followed = campaign.recipe.joined_changes(of_strategy, changes)
    if followed:
        campaign = campaign.with_recipe(followed, where=f"{key} {ASSET}")
    return Beginning(parent, changes, campaign, strategy)


def _chosen_strategy(store: ArtifactStore, parent: RoundKey, campaign: Campaign) -> str | None:
    """The strategy that steering chooses after a finished round; none: the campaign's own recipe."""
    history = read_history(store, read_policy(store, parent)[0].line)
    directives = decide_for(history, campaign).directives
    return next((d.strategy for d in directives if isinstance(d, SwitchRecipe)), None)


def start_round(
    bench: Workbench,
    key: RoundKey,
    parent: RoundKey | None = None,
    recipe: Mapping[str, Any] | None = None,
    directives: Sequence[Directive] | None = None,
) -> Artifact:
    """Fixes what round `key` starts from: the base model, or what its parent round left in force.

    `parent` and `recipe` start a branch, see `begin`; `directives` are given to the round in place of those
    that its history calls for, to try others.

    Raises:
        SelfimpError: the round cannot begin so, or its parent was altered.
    """
    return start_from(bench, key, begin(bench.store, bench.campaigns, key, parent, recipe), directives)


def start_from(
    bench: Workbench, key: RoundKey, beginning: Beginning, directives: Sequence[Directive] | None = None
) -> Artifact:
    """Fixes what round `key` starts from, given where it begins: of now, or of an earlier start.

    Raises:
        SelfimpError: its parent was altered or is not finished, the base model cannot be read, or an
            environment of the campaign cannot be played on this machine.
    """
    parent, campaign = beginning.parent, beginning.campaign
    require_environments(campaign)
    if parent is None:
        base = resolve_model(campaign.model, bench.models)
        policy = Policy(
            round=str(key),
            parent=None,
            ancestors=(),
            weights_round=None,
            policy_hash=policy_hash(base),
            seed=derive_seed(campaign.seed, key.number),
            directives=tuple(directives or ()),
            tokens_left=campaign.continuation.budget.tokens,
            seconds_left=campaign.continuation.budget.seconds,
            campaign=campaign,
            recipe_changes=beginning.recipe_changes,
            strategy=beginning.strategy,
        )
        parents: dict[str, str] = {}
        obeyed: list[Obeyed] = []
    else:
        policy, parents, obeyed = _continue_from(bench.store, key, parent, beginning, directives)
    draft = bench.store.draft(key, ASSET, parents=parents, config=campaign.model_dump(mode="json"))
    draft.write_json("policy", policy.model_dump(mode="json"))
    return draft.commit(
        facts={
            "policy_hash": policy.policy_hash,
            "parent": policy.parent,
            "weights_round": policy.weights_round,
            "recipe_changes": policy.recipe_changes,
            "task_files": _task_files(campaign, bench.campaigns),
            "obeyed": [told.model_dump() for told in obeyed],
        },
        measurements={},
    )


def _task_files(campaign: Campaign, base_folder: Path) -> dict[str, str]:
    """The sha256 of every task file, so that a round says which tasks it was started with."""
    sources = [*campaign.skills.values(), *campaign.guard.values()]
    paths = {source.path for source in sources if isinstance(source, FileSource)}
    return {path: file_sha256(base_folder / path) for path in sorted(paths)}


def _continue_from(
    store: ArtifactStore,
    key: RoundKey,
    parent: RoundKey,
    beginning: Beginning,
    directives: Sequence[Directive] | None,
) -> tuple[Policy, dict[str, str], list[Obeyed]]:
    campaign = beginning.campaign
    before, _ = read_policy(store, parent)
    report = store.open(parent, "eval_report")
    parents = {f"{parent}/eval_report": report.data_version}
    outcome = read_outcome(store, parent)
    if outcome.question is not None and outcome.obstacle is not None:
        raise unapproved(outcome.question)
    if outcome.promoted:
        checkpoint = store.open(parent, "checkpoint", verify=False)
        if checkpoint.data_version != report.manifest.parents["checkpoint"]:
            raise SelfimpError(
                f"the checkpoint of {parent} is not the one that its evaluation report promoted",
                where=f"{key} incumbent_policy",
                fix=f"materialize refined_outputs and eval_report of {parent} again",
            )
        parents[f"{parent}/checkpoint"] = checkpoint.data_version
        weights_round: str | None = str(parent)
        weights_hash = checkpoint.facts["policy_hash"]
    else:
        weights_round, weights_hash = before.weights_round, before.policy_hash
    ancestors = (*before.ancestors, str(parent))
    history = read_history(store, before.line)
    budget = campaign.continuation.budget
    given = decide_for(history, campaign).directives if directives is None else tuple(directives)
    policy = Policy(
        round=str(key),
        parent=str(parent),
        ancestors=ancestors,
        weights_round=weights_round,
        policy_hash=weights_hash,
        seed=derive_seed(campaign.seed, key.number),
        directives=given,
        tokens_left=None if budget.tokens is None else budget.tokens - sum(r.tokens for r in history),
        seconds_left=None if budget.seconds is None else budget.seconds - sum(r.seconds for r in history),
        campaign=campaign,
        recipe_changes=beginning.recipe_changes,
        strategy=beginning.strategy,
    )
    obeyed = obey_start(campaign, beginning.recipe_changes, before.strategy, history[-1].approved, given)
    return policy, parents, obeyed


def read_policy(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
    """The start of a round, with the artifact that records it.

    Raises:
        SelfimpError: the round was not started, or the record was altered.
    """
    artifact = store.open(key, ASSET)
    return Policy.model_validate(artifact.json("policy")), artifact


def child_rounds(store: ArtifactStore, key: RoundKey) -> list[RoundKey]:
    """The rounds that were started from a round, in order, finished or not."""
    return [
        later
        for later in store.rounds(key.campaign)
        if later > key
        and store.has(later, ASSET)
        and store.open(later, ASSET, verify=False).facts["parent"] == str(key)
    ]


def incumbent_weights(bench: Workbench, policy: Policy) -> Path:
    """The folder of the weights that the round starts from.

    Raises:
        SelfimpError: they are missing or are not the weights that the round was started with.
    """
    if policy.weights_round is not None:
        checkpoint = bench.store.open(RoundKey.parse(policy.weights_round), "checkpoint")
        folder, found = checkpoint.folder / "model", checkpoint.facts["policy_hash"]
    else:
        folder = resolve_model(policy.campaign.model, bench.models)
        found = policy_hash(folder)
    if found != policy.policy_hash:
        raise SelfimpError(
            f"the weights have the hash {found[:16]}, the round was started with {policy.policy_hash[:16]}",
            where=f"{policy.round} incumbent_policy",
            fix="materialize incumbent_policy of the round again to start it from the weights that are there",
        )
    return folder
