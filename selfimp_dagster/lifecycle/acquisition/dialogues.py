"""What acquisition by dialogue has in common: turns that go on from samples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import SAMPLES, derive_seed, frame

Row = Mapping[str, Any]
"""One sample, a row of records.SAMPLES."""


def turn(
    rows: Iterable[tuple[Row, Sequence[Message]]],
    context: AcquisitionContext,
    sampling: Sampling,
    *,
    generation: str,
    label: str,
    times: int = 1,
) -> pl.DataFrame:
    """What the policy says next in these chats, so many times each, in their order.

    Each chat comes with the sample that it goes on from, which becomes the parent. `label` names the step, in
    the progress bar and in the seeds: a method must not use one twice.
    """
    requests = [
        SampleRequest(
            row["task_id"],
            tuple(messages),
            derive_seed(context.seed, label, row["sample_id"], place, n),
            row["sample_id"],
        )
        for place, (row, messages) in enumerate(rows)
        for n in range(times)
    ]
    return context.sample(requests, sampling, generation=generation, label=label)


def going_on(row: Row, said: str) -> tuple[Message, ...]:
    """The chat of a sample with its response in it, and what is said to the policy next."""
    return (
        *row["messages"],
        {"role": "assistant", "content": row["response"]},
        {"role": "user", "content": said},
    )


def questions(tasks: pl.DataFrame, context: AcquisitionContext) -> dict[str, str]:
    """The last turn of the chat that asks each task, by its id."""
    asked = tasks.select("task_id", "prompt").iter_rows()
    return {id_: context.messages(prompt)[-1]["content"] for id_, prompt in asked}


def spoken(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """The samples whose response is not empty: from silence nothing goes on."""
    return samples.filter(pl.col("response").str.strip_chars() != "").to_dicts()


def together(*samples: pl.DataFrame) -> pl.DataFrame:
    """Several frames of samples as one."""
    return pl.concat([frame([], SAMPLES), *samples])
