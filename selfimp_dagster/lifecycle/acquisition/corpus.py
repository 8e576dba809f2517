"""What an acquisition method is given, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.sampling import SampleRequest


class Sample(Protocol):
    """Draws one response per request from the incumbent: rows of records.SAMPLES in that order."""

    def __call__(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Corpus:
    """Tasks (records.TASKS) and samples of them (records.SAMPLES)."""

    tasks: pl.DataFrame
    samples: pl.DataFrame


@dataclass(frozen=True)
class AcquisitionContext:
    """What a method may use.

    `draw(size, weights)` gives that many train tasks; `messages` turns a prompt into the chat that
    asks it; `judge(tasks, samples)` gives the reward `answer` (records.REWARDS) of every sample;
    `offered` are the accepted refined outputs of the round before.
    """

    draw: Callable[[int, Mapping[str, float]], pl.DataFrame]
    sample: Sample
    messages: Callable[[str], tuple[Message, ...]]
    judge: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]
    offered: Corpus
    skill_weights: Mapping[str, float]
    size: int
    seed: int
