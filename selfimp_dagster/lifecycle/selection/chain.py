"""A selection is a chain of named steps: each judges the rows that the steps before it kept.

A step is a registered function `(rows, context, parameters) -> frame`. `rows` has one row per
sample that is still alive: the columns of SAMPLES plus `skill`, `difficulty`, `prompt`, `chat` and
`answer` of its task. The frame that it returns has the columns of JUDGEMENTS, one row per sample
of `rows`. A method with a `state` returns `(frame, state)`: the next round of the line gets it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.engines.base import Message
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.corpus import trained_chats
from selfimp_dagster.lifecycle.rewards.context import Judge
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource
from selfimp_dagster.lifecycle.sampling import asked
from selfimp_dagster.lifecycle.selection.models import Models, Pair
from selfimp_dagster.lifecycle.selection.row_keys import Nearness, RowKeys
from selfimp_dagster.records import REWARDS, SAMPLES, SELECTION, TASKS, check_schema
from selfimp_dagster.registry import Method, find_method

ALWAYS_ON = ("exact_duplicates", "near_duplicates", "decontamination")
"""The steps that every chain has exactly once."""

REWARD_FILTERS = ("verified",)
"""The steps that drop a sample for nothing but its reward."""

EARLIER = pl.Schema(
    {
        "sample_id": pl.String,
        "task_id": pl.String,
        "round": pl.String,
        "prompt": pl.String,
        "response": pl.String,
    }
)
"""Rows that the ancestor rounds kept; further columns are ignored."""

JUDGEMENTS = pl.Schema(
    {
        "sample_id": pl.String,
        "score": pl.Float64,
        "kept": pl.Boolean,
        "reason": pl.String,
        "evidence": pl.String,
    }
)
"""What a step says of each row. `score` is null where there was nothing to score."""


@dataclass(frozen=True)
class SelectionContext:
    """What the steps of one round may look at.

    `earlier` are the rows kept in the ancestor rounds (EARLIER), which may be lazy, and `stored_keys` what
    keys they have (ROW_KEYS), without which these are computed, `keys` those of this round's rows;
    `evaluation_items` are the anchor, fresh
    and guard items of this and all earlier rounds (TASKS). `messages` turns a prompt into the chat that
    asks it, `models` are what a step may have score texts, `judge` opens the judge of a source. `state`
    is what the same step left in the parent round, `acquisition` the parameters of the method that drew the
    samples, `parent_gain` by how much that round's candidate was
    more accurate than its incumbent on items that only that round saw; none where there is no such thing.
    """

    tasks: pl.DataFrame
    samples: pl.DataFrame
    rewards: pl.DataFrame
    earlier: pl.DataFrame | pl.LazyFrame
    evaluation_items: pl.DataFrame
    seed: int
    messages: Callable[[str], tuple[Message, ...]]
    models: Models
    judge: Callable[[JudgeSource], Judge]
    state: BaseModel | None = None
    parent_gain: float | None = None
    acquisition: BaseModel | None = None
    stored_keys: Callable[[Nearness | None], pl.LazyFrame] | None = None
    keys: RowKeys = field(default_factory=RowKeys)

    def keys_of_earlier(self, nearness: Nearness | None) -> pl.LazyFrame:
        """The keys of the earlier rows (ROW_KEYS): those of their exact texts, or of near ones."""
        if self.stored_keys is not None:
            return self.stored_keys(nearness)
        rows = self.earlier.lazy().select("sample_id", pl.col("prompt", "response").fill_null("")).collect()
        return RowKeys().of(rows, nearness).lazy()

    def asked(self, rows: pl.DataFrame) -> list[Pair]:
        """Each row as it is trained on: the chat (see `chats`) and the response."""
        return [
            (tuple(chat), response) for chat, response in zip(self.chats(rows), rows["response"], strict=True)
        ]

    def chats(self, rows: pl.DataFrame) -> list[list[Message]]:
        """The chat that each row is trained on in; rows have `prompt` and `chat` of their tasks and the
        `messages` they were drawn with."""
        plain = [asked(row, self.messages) for row in rows.select("prompt", "chat").iter_rows(named=True)]
        return trained_chats(self.acquisition, rows["messages"].to_list(), plain)

    def reward(self, name: str) -> pl.DataFrame:
        """The named reward: sample_id, kind, value (null where it is not a number), confidence, evidence.

        Raises:
            SelfimpError: there are samples and none of them has that reward.
        """
        named = self.rewards.filter(pl.col("reward") == name)
        if named.is_empty() and not self.samples.is_empty():
            known = ", ".join(sorted(self.rewards["reward"].drop_nulls().unique())) or "none"
            raise SelfimpError(
                f"no sample has the reward {name!r}",
                where="recipe.selection",
                fix=f"name a reward of this corpus ({known}), or add {name!r} to the recipe's rewards",
            )
        # NaN compares greater than every number, so it would pass any minimum.
        return named.select("sample_id", "kind", pl.col("value").fill_nan(None), "confidence", "evidence")


@dataclass(frozen=True)
class SelectionStep:
    """One step of a chain: a registered method and its parameters."""

    method: Method
    parameters: BaseModel

    @classmethod
    def of(cls, name: str, **parameters: Any) -> Self:
        """The step of that name; parameters that are not given have their defaults.

        Raises:
            SelfimpError: there is no such selection method.
            pydantic.ValidationError: the parameters do not fit.
        """
        method = find_method("selection", name)
        return cls(method, method.parameters.model_validate(parameters))


def check_chain(steps: Sequence[SelectionStep]) -> None:
    """Refuses a chain that could train on duplicates or on evaluation items, or whose states would mix.

    Raises:
        SelfimpError: a step of ALWAYS_ON is missing or there twice, or one with a state is there twice.
    """
    times = Counter(step.method.name for step in steps)
    wrong = [f"{name} is there {times[name]} times" for name in ALWAYS_ON if times[name] != 1]
    if wrong:
        raise SelfimpError(
            f"every selection removes duplicates and evaluation items exactly once: {', '.join(wrong)}",
            where="recipe.selection",
            fix=f"have each of {', '.join(ALWAYS_ON)} once",
        )
    mixed = sorted({step.method.name for step in steps if step.method.state and times[step.method.name] > 1})
    if mixed:
        raise SelfimpError(
            f"{', '.join(mixed)} carries a state from round to round and is there twice",
            where="recipe.selection",
            fix="have it once",
        )


def run_chain(
    steps: Sequence[SelectionStep],
    context: SelectionContext,
    states: Mapping[str, BaseModel] | None = None,
) -> tuple[pl.DataFrame, dict[str, BaseModel]]:
    """Every sample's score and fate at every step that it reached (SELECTION), and the steps' states.

    Sorted by task, sample and position; positions count from 0. A sample is kept when all of its
    rows are, and otherwise its last row says why it was dropped. The result does not depend on the
    order of the rows in the context. States are those of the parent round and of this one, by the
    name of the step.

    Raises:
        SelfimpError: the chain lacks a step of ALWAYS_ON, or the frames of the context do not fit
            their schemas or each other.
        ValueError: a step did not judge every row exactly once, or gave one a score that is no number.
    """
    check_chain(steps)
    alive = corpus_rows(context)
    tasks = alive.select("sample_id", "task_id")
    judged = [SELECTION.to_frame()]
    left: dict[str, BaseModel] = {}
    for position, step in enumerate(steps):
        judgements, state = judge_rows(
            step, alive, replace(context, state=(states or {}).get(step.method.name))
        )
        if state is not None:
            left[step.method.name] = state
        judged.append(
            judgements.join(tasks, on="sample_id").select(
                "sample_id",
                "task_id",
                pl.lit(position, pl.Int64).alias("position"),
                pl.lit(step.method.name).alias("step"),
                "score",
                "kept",
                "reason",
                "evidence",
            )
        )
        alive = alive.join(judgements.filter("kept"), on="sample_id", how="semi", maintain_order="left")
    return pl.concat(judged).sort("task_id", "sample_id", "position"), left


def kept_sample_ids(selection: pl.DataFrame) -> list[str]:
    """The samples that every step kept, sorted by task and sample."""
    kept = selection.group_by("task_id", "sample_id").agg(pl.col("kept").all())
    return kept.filter("kept").sort("task_id", "sample_id")["sample_id"].to_list()


def funnel(selection: pl.DataFrame) -> pl.DataFrame:
    """How many samples reached each step and left it: position, step, reached, kept, dropped.

    A step that no sample reached has no row.
    """
    return (
        selection.group_by("position", "step")
        .agg(
            pl.len().cast(pl.Int64).alias("reached"),
            pl.col("kept").sum().cast(pl.Int64),
            (~pl.col("kept")).sum().cast(pl.Int64).alias("dropped"),
        )
        .sort("position")
    )


def texts_of(rows: pl.DataFrame) -> list[str]:
    """Each row as one text, its prompt and its response, for steps that compare texts."""
    return [f"{prompt}\n{response}".strip() for prompt, response in _texts(rows)]


def _texts(rows: pl.DataFrame) -> Iterator[tuple[str, str]]:
    return rows.select("prompt", "response").iter_rows()


def corpus_rows(context: SelectionContext) -> pl.DataFrame:
    """The corpus in its canonical order, each sample with its task.

    Raises:
        SelfimpError: the frames of the context do not fit their schemas or each other.
    """
    known = context.earlier.lazy().collect_schema()
    earlier = pl.Schema({name: known[name] for name in EARLIER if name in known}).to_frame()
    for table, schema, name in (
        (context.tasks, TASKS, "tasks"),
        (context.samples, SAMPLES, "samples"),
        (context.rewards, REWARDS, "rewards"),
        (earlier, EARLIER, "rows of earlier rounds"),
        (context.evaluation_items, TASKS, "evaluation items"),
    ):
        check_schema(table, schema, f"selected_subset, {name}")
    for table, key, name in (
        (context.tasks, ["task_id"], "tasks"),
        (context.samples, ["sample_id"], "samples"),
        (context.rewards, ["sample_id", "reward"], "rewards"),
    ):
        repeated = table.filter(table.select(key).is_duplicated())
        if not repeated.is_empty():
            raise _corpus_error(f"{name} has {repeated.height} rows that share their {' and '.join(key)}")
    orphans = context.samples.join(context.tasks, on="task_id", how="anti")
    if not orphans.is_empty():
        raise _corpus_error(f"{orphans.height} samples answer tasks that the corpus does not have")
    task = context.tasks.select("task_id", "skill", "difficulty", "prompt", "chat", "answer")
    return (
        context.samples.join(task, on="task_id")
        .with_columns(pl.col("prompt", "response").fill_null(""))
        .sort("task_id", "sample_id")
    )


def _corpus_error(what: str) -> SelfimpError:
    return SelfimpError(what, where="generated_corpus", fix="materialize generated_corpus again")


def judge_rows(
    step: SelectionStep, rows: pl.DataFrame, context: SelectionContext
) -> tuple[pl.DataFrame, BaseModel | None]:
    """What a step says of rows, in the schema of JUDGEMENTS, and the state that it leaves.

    Raises:
        ValueError: it did not judge every row exactly once, or gave one a score that is no number.
    """
    name = step.method.name
    result = step.method.function(rows, context, step.parameters)
    frame, state = result if step.method.state else (result, None)
    judgements = check_schema(frame, JUDGEMENTS, f"selection step {name}")
    same = judgements["sample_id"].sort().equals(rows["sample_id"].sort())
    if not same or judgements["kept"].has_nulls():
        raise ValueError(f"selection step {name} must judge each of its {rows.height} rows exactly once")
    if judgements["score"].is_nan().any():
        raise ValueError(f"selection step {name} must give a row a number or no score")
    return judgements, state
