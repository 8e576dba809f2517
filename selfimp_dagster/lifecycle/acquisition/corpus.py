"""What an acquisition method is given, and what it returns."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.proposals import Fault, Rules
from selfimp_dagster.lifecycle.rewards.context import Judge, nobody
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import DOCUMENTS, PROPOSALS, SAMPLES, TASKS, content_id, derive_seed, frame

if TYPE_CHECKING:
    import numpy as np

TrainedIn = Literal["task", "opening", "dialogue"]
"""In which chat the samples of a method are trained on: how the task is asked, whatever else was shown when
they were drawn; the chat in which they were drawn, up to the first reply in it; or all of that chat."""


class Draw(Protocol):
    """Draws that many train tasks (records.TASKS) by the skills' weights, of these levels of difficulty.

    A skill that `levels` does not name has tasks of all its levels; without `levels` those count that
    evaluation directed.
    """

    def __call__(
        self,
        size: int,
        weights: Mapping[str, float],
        levels: Mapping[str, Collection[float]] | None = None,
    ) -> pl.DataFrame: ...


class Sample(Protocol):
    """Draws one response per request from the incumbent: rows of records.SAMPLES in that order."""

    def __call__(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Corpus:
    """Tasks (records.TASKS) and samples of them (records.SAMPLES).

    `proposals` say what became of all that was proposed as a task (records.PROPOSALS), `drafts` are what the
    policy said when it was asked for tasks (records.SAMPLES, never trained on), `documents` what was read
    (records.DOCUMENTS).
    """

    tasks: pl.DataFrame = field(default_factory=TASKS.to_frame)
    samples: pl.DataFrame = field(default_factory=SAMPLES.to_frame)
    proposals: pl.DataFrame = field(default_factory=PROPOSALS.to_frame)
    drafts: pl.DataFrame = field(default_factory=SAMPLES.to_frame)
    documents: pl.DataFrame = field(default_factory=DOCUMENTS.to_frame)


def _no_logprobs(pairs: Sequence[tuple[tuple[Message, ...], str]]) -> list[list[float]]:
    raise ValueError("there is no policy here that scores texts")


def _no_embeddings(texts: Sequence[str]) -> "np.ndarray":
    raise ValueError("there is no policy here that embeds texts")


@dataclass(frozen=True)
class AcquisitionContext:
    """What a method may use.

    `draw` gives train tasks; `levels` are the levels of difficulty that each skill's tasks have, `directed`
    those that evaluation lets a skill attempt (a skill that it does not name may attempt all), `updates`
    how many promoted updates the incumbent is away from the base model; `messages` turns a prompt into the
    chat that asks it; `judge(tasks, samples)` gives the reward `answer` (records.REWARDS) of every sample;
    `offered` are the accepted refined outputs of the round before. `written` are the tasks (records.TASKS)
    that models wrote in earlier rounds of the line, `rules` what every proposed task must fulfil, `judges`
    opens the judge of a source, `embed` gives the incumbent's embeddings of texts, (texts, hidden), and
    `logprobs` the log-probabilities of the tokens of responses after their chats (`Engine.logprobs`);
    `folder` is what the paths of files are relative to.
    """

    draw: Draw
    levels: Mapping[str, Sequence[float]]
    directed: Mapping[str, Sequence[float]]
    updates: int
    sample: Sample
    messages: Callable[[str], tuple[Message, ...]]
    judge: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]
    offered: Corpus
    skill_weights: Mapping[str, float]
    size: int
    seed: int
    written: pl.DataFrame = field(default_factory=TASKS.to_frame)
    rules: Rules = field(default_factory=Rules)
    judges: Callable[[JudgeSource], Judge] = nobody
    embed: Callable[[Sequence[str]], "np.ndarray"] = _no_embeddings
    logprobs: Callable[[Sequence[tuple[tuple[Message, ...], str]]], list[list[float]]] = _no_logprobs
    folder: Path = Path()


def trained_chats(
    parameters: BaseModel | None, drawn: Sequence[Sequence[Message]], plain: Sequence[Sequence[Message]]
) -> list[list[Message]]:
    """The chat that each sample of a method with these parameters is trained on in.

    Args:
        parameters: with `trained_in`, or without: then it is the task as it is asked.
        drawn: the chats in which the samples were drawn.
        plain: the chats that ask their tasks.
    """
    trained_in: TrainedIn = getattr(parameters, "trained_in", "task")
    match trained_in:
        case "task":
            return [list(chat) for chat in plain]
        case "opening":
            return [list(takewhile(lambda message: message["role"] != "assistant", chat)) for chat in drawn]
        case "dialogue":
            return [list(chat) for chat in drawn]


def without(corpus: Corpus, faults: Mapping[str, Fault]) -> Corpus:
    """The corpus without these tasks and their samples.

    Each of them has a row among the proposals (records.PROPOSALS) that says why: the one by which it came, or
    one of its own.
    """
    ids = list(faults)
    kept = corpus.tasks.filter(~pl.col("task_id").is_in(ids))
    rejected = pl.col("task_id").is_in(ids)
    reasons = {id_: reason.value for id_, (reason, _) in faults.items()}
    details = {id_: detail for id_, (_, detail) in faults.items()}
    proposals = corpus.proposals.with_columns(
        pl.when(rejected)
        .then(pl.col("task_id").replace_strict(reasons, default=None, return_dtype=pl.String))
        .otherwise("reason")
        .alias("reason"),
        pl.when(rejected)
        .then(pl.col("task_id").replace_strict(details, default=None, return_dtype=pl.String))
        .otherwise("detail")
        .alias("detail"),
        pl.when(rejected).then(None).otherwise("task_id").alias("task_id"),
    )
    unproposed = corpus.tasks.filter(rejected).join(corpus.proposals, on="task_id", how="anti")
    rows = [
        {
            "proposal_id": content_id("proposal", task["task_id"]),
            "method": task["source"],
            "prompt": task["prompt"],
            "answer": task["answer"],
            "parent_ids": task["parent_ids"],
            "generation_depth": task["generation_depth"],
            "reason": reasons[task["task_id"]],
            "detail": details[task["task_id"]],
        }
        for task in unproposed.iter_rows(named=True)
    ]
    return replace(
        corpus,
        tasks=kept,
        samples=corpus.samples.filter(~rejected),
        proposals=pl.concat([proposals, frame(rows, PROPOSALS)]),
    )


def answered(
    tasks: pl.DataFrame, context: AcquisitionContext, times: int, sampling: Sampling
) -> pl.DataFrame:
    """So many responses of the incumbent to each task, asked plainly (records.SAMPLES, generation SE)."""
    requests = [
        SampleRequest(
            task["task_id"], context.messages(task["prompt"]), derive_seed(context.seed, task["task_id"], n)
        )
        for task in tasks.iter_rows(named=True)
        for n in range(times)
    ]
    return context.sample(requests, sampling, generation="SE", label="answering")
