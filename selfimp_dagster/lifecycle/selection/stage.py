"""The stage selected_subset: what of a corpus is trained on, and why the rest is not."""

import time
from collections.abc import Sequence

import polars as pl

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.items import items_until
from selfimp_dagster.lifecycle.obedience import obey_selection
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lifecycle.rewards.judging import visible
from selfimp_dagster.lifecycle.selection.chain import (
    SelectionContext,
    SelectionStep,
    funnel,
    kept_sample_ids,
    run_chain,
)
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.records import MESSAGES, REWARDS, SAMPLES, SELECTION, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

ASSET = "selected_subset"

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
"""The kept rows, complete: what an optimizer reads. `round` is the round that selected them, `messages` how
the policy is asked the task, whatever else it was shown when it was sampled."""


def select_subset(bench: Workbench, key: RoundKey) -> Artifact:
    """Runs the recipe's selection chain over the round's corpus; every row keeps its fate."""
    started = time.monotonic()
    policy, start = read_policy(bench.store, key)
    campaign = policy.campaign
    corpus = bench.store.open(key, "generated_corpus")
    chain, obeyed = obey_selection(campaign.recipe, policy.directives)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={"incumbent_policy": start.data_version, "generated_corpus": corpus.data_version},
        config={"selection": [choice.model_dump(mode="json") for choice in chain]},
    )
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    context = SelectionContext(
        tasks=tasks,
        samples=samples,
        rewards=visible(corpus.table("rewards", REWARDS), campaign.recipe.judges),
        earlier=selected_rows(bench.store, [RoundKey.parse(ancestor) for ancestor in policy.ancestors]),
        evaluation_items=items_until(campaign, key.number, bench.campaigns),
        seed=policy.seed,
    )
    selection = run_chain([SelectionStep(*choice.resolve("selection")) for choice in chain], context)
    subset = (
        samples.filter(pl.col("sample_id").is_in(kept_sample_ids(selection)))
        .join(tasks.select("task_id", "skill", "prompt"), on="task_id")
        .with_columns(round=pl.lit(str(key)))
        .select(list(SUBSET))
        .sort("sample_id")
    )
    asked = [list(campaign.messages(prompt)) for prompt in subset["prompt"]]
    subset = subset.with_columns(pl.Series("messages", asked, dtype=MESSAGES))
    draft.write_table("selection", selection, SELECTION)
    draft.write_table("subset", subset, SUBSET)
    return draft.commit(
        facts={
            "rows": samples.height,
            "kept": subset.height,
            "funnel": funnel(selection).to_dicts(),
            "obeyed": [told.model_dump() for told in obeyed],
        },
        measurements={"seconds": time.monotonic() - started, "tokens": 0},
    )


def selected_rows(store: ArtifactStore, keys: Sequence[RoundKey]) -> pl.DataFrame:
    """The kept rows of several rounds, in the schema SUBSET."""
    return pl.concat([SUBSET.to_frame(), *(store.open(key, ASSET).table("subset", SUBSET) for key in keys)])


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
