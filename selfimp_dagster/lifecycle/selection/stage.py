"""The stage selected_subset: what of a corpus is trained on, and why the rest is not."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.carried import carried_state
from selfimp_dagster.lifecycle.cost import Meter
from selfimp_dagster.lifecycle.evaluation.items import items_until
from selfimp_dagster.lifecycle.evaluation.report import is_quarantined, read_report
from selfimp_dagster.lifecycle.judges import Judges
from selfimp_dagster.lifecycle.obedience import obey_selection
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights, read_policy
from selfimp_dagster.lifecycle.rewards.judging import visible
from selfimp_dagster.lifecycle.selection.chain import (
    SelectionContext,
    SelectionStep,
    funnel,
    kept_sample_ids,
    run_chain,
)
from selfimp_dagster.lifecycle.selection.duplicates import NearDuplicatesParameters
from selfimp_dagster.lifecycle.selection.models import Models, Role
from selfimp_dagster.lifecycle.selection.row_keys import ROW_KEYS, Nearness, RowKeys
from selfimp_dagster.lifecycle.selection.spare import SPARE, spare_rows
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.records import MESSAGES, REWARDS, SAMPLES, SELECTION, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

ASSET = "selected_subset"

_EXACT, _NEAR = "exact_keys", "near_keys"
"""The tables with the keys (ROW_KEYS) by which later rounds find the kept rows."""

STATE = "selection_state"
"""The JSON file with what the steps of the chain left for the next round, by the name of the step."""

SUBSET = pl.Schema(
    {
        "sample_id": pl.String(),
        "task_id": pl.String(),
        "round": pl.String(),
        "skill": pl.String(),
        "prompt": pl.String(),
        "messages": MESSAGES,
        "response": pl.String(),
    }
)
"""The kept rows, complete: what an optimizer reads. `round` is the round that selected them, `messages` the
chat that they are trained on in (see `acquisition.corpus.TrainedIn`)."""


def select_subset(bench: Workbench, key: RoundKey) -> Artifact:
    """Runs the recipe's selection chain over the round's corpus; every row keeps its fate.

    What steps leave for the next round follows from what they left in the parent round and from this round's
    corpus: a stage that is run again leaves the same.
    """
    meter = Meter()
    policy, start = read_policy(bench.store, key)
    campaign = policy.campaign
    corpus = bench.store.open(key, "generated_corpus")
    chain, obeyed = obey_selection(campaign.recipe, policy.directives)
    steps = [SelectionStep(*choice.resolve("selection")) for choice in chain]
    states, parents = _parent_states(bench.store, policy, steps)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={
            "incumbent_policy": start.data_version,
            "generated_corpus": corpus.data_version,
            **parents,
        },
        config={"selection": [choice.model_dump(mode="json") for choice in chain]},
    )
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    kept_before = _sound(bench.store, [RoundKey.parse(ancestor) for ancestor in policy.ancestors])
    models, judges = _models(bench, policy), Judges(bench, policy, draft.folder / ".judgements")
    context = SelectionContext(
        tasks=tasks,
        samples=samples,
        rewards=visible(corpus.table("rewards", REWARDS), campaign.recipe.resolved_rewards),
        earlier=_scanned(kept_before, "subset", SUBSET),
        stored_keys=lambda nearness: _stored_keys(kept_before, nearness),
        evaluation_items=items_until(campaign, key.number, bench.campaigns),
        seed=policy.seed,
        messages=campaign.messages,
        acquisition=campaign.recipe.acquisition.resolve("acquisition")[1],
        models=models,
        judge=judges.judge,
        parent_gain=_parent_gain(bench.store, policy),
    )
    selection, left = run_chain(steps, context, states)
    spare = spare_rows(steps, context, selection)
    subset = (
        samples.filter(pl.col("sample_id").is_in(kept_sample_ids(selection)))
        .join(tasks.select("task_id", "skill", "prompt", "chat"), on="task_id")
        .with_columns(round=pl.lit(str(key)))
        .sort("sample_id")
    )
    chats = pl.Series("messages", context.chats(subset), dtype=MESSAGES)
    subset = subset.with_columns(chats).select(list(SUBSET))
    draft.write_table("selection", selection, SELECTION)
    draft.write_table("subset", subset, SUBSET)
    draft.write_table("spare", spare, SPARE)
    nearness = _nearness(steps)
    draft.write_table(_EXACT, context.keys.of(subset, None), ROW_KEYS)
    draft.write_table(_NEAR, context.keys.of(subset, nearness), ROW_KEYS)
    if left:
        draft.write_json(STATE, {step: state.model_dump(mode="json") for step, state in left.items()})
    return draft.commit(
        facts={
            "rows": samples.height,
            "kept": subset.height,
            "contrasts": spare["contrast"].sum(),
            "funnel": funnel(selection).to_dicts(),
            "nearness": nearness.model_dump(),
            "obeyed": [told.model_dump() for told in obeyed],
            **({"engine": models.harness} if models.harness else {}),
        },
        measurements=meter.measured(models.tokens + judges.tokens),
    )


def _models(bench: Workbench, policy: Policy) -> Models:
    def weights(role: Role) -> tuple[Path, str]:
        if role == "incumbent":
            return incumbent_weights(bench, policy), policy.policy_hash
        folder = resolve_model(policy.campaign.model, bench.models)
        return folder, policy_hash(folder)

    return Models(weights, bench.engines.engine, bench.progress)


def _parent_states(
    store: ArtifactStore, policy: Policy, steps: Sequence[SelectionStep]
) -> tuple[dict[str, BaseModel], dict[str, str]]:
    """What the steps left in the parent round, and the artifact that it was read from."""
    carrying = [step.method for step in steps if step.method.state]
    if policy.parent is None or not carrying:
        return {}, {}
    parent = store.open(RoundKey.parse(policy.parent), ASSET)
    states = {m.name: carried_state(parent, STATE, m.name, m.state) for m in carrying if m.state}
    found = {name: state for name, state in states.items() if state is not None}
    return found, {f"{policy.parent}/{ASSET}": parent.data_version}


def _parent_gain(store: ArtifactStore, policy: Policy) -> float | None:
    """By how much the candidate of the parent round was better than its incumbent on fresh items."""
    if policy.parent is None:
        return None
    report = read_report(store, RoundKey.parse(policy.parent))
    candidate, incumbent = report.score("fresh", "candidate"), report.score("fresh", "incumbent")
    return candidate.accuracy - incumbent.accuracy if candidate and incumbent else None


def selected_rows(store: ArtifactStore, keys: Sequence[RoundKey]) -> pl.DataFrame:
    """The kept rows of several rounds, in the schema SUBSET; of quarantined ones none."""
    return pl.concat([SUBSET.to_frame(), *(one.table("subset", SUBSET) for one in _sound(store, keys))])


def _sound(store: ArtifactStore, keys: Sequence[RoundKey]) -> list[Artifact]:
    """The subsets of rounds that are not quarantined."""
    return [store.open(key, ASSET) for key in keys if not is_quarantined(store, key)]


def _scanned(subsets: Sequence[Artifact], table: str, schema: pl.Schema) -> pl.LazyFrame:
    """A table of several rounds, which is read where it is asked for."""
    files = [one.file(f"{table}.parquet") for one in subsets]
    return pl.concat([schema.to_frame().lazy(), *(pl.scan_parquet(file, glob=False) for file in files)])


def _stored_keys(subsets: Sequence[Artifact], nearness: Nearness | None) -> pl.LazyFrame:
    """The keys of the rows of several rounds; of those that have none, or others, they are computed."""
    name = _EXACT if nearness is None else _NEAR
    told = None if nearness is None else nearness.model_dump()
    stored = [
        one for one in subsets if one.has_table(name) and (told is None or one.facts["nearness"] == told)
    ]
    computed = [RowKeys().of(one.table("subset", SUBSET), nearness) for one in subsets if one not in stored]
    return pl.concat([_scanned(stored, name, ROW_KEYS), *(keys.lazy() for keys in computed)])


def _nearness(steps: Sequence[SelectionStep]) -> Nearness:
    """What the chain finds near-duplicates by."""
    given = next(step.parameters for step in steps if step.method.name == "near_duplicates")
    assert isinstance(given, NearDuplicatesParameters)
    return given.nearness


def require_rows(subset: pl.DataFrame, minimum: int, key: RoundKey) -> None:
    """Nothing.

    Raises:
        SelfimpError: the selection kept fewer rows than training needs.
    """
    if subset.height < minimum:
        raise SelfimpError(
            f"the selection kept {subset.height} rows, training needs {minimum}",
            where=f"{key} selected_subset",
            fix="see the funnel in its metadata for the step that dropped them; draw more tasks or samples, "
            "make the tasks easier, or loosen that step, then materialize the round again",
        )
