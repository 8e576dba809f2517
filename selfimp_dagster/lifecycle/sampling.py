"""Sampling that survives being killed: what was drawn is on disk, and is never drawn twice."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimp_dagster.engines.base import Completion, Generator, Message, Request, Sampling
from selfimp_dagster.progress import Bar, Inside, Progress
from selfimp_dagster.records import SAMPLES, frame, sample_id
from selfimp_dagster.store import write_parquet


@dataclass(frozen=True)
class SampleRequest:
    """One response that a stage wants for a task."""

    task_id: str
    messages: tuple[Message, ...]
    seed: int
    parent_sample_id: str | None = None


def asked(task: Mapping[str, Any], messages: Callable[[str], tuple[Message, ...]]) -> tuple[Message, ...]:
    """How the policy is asked a task: by its own turns where it has some, else as `messages` asks a prompt.

    Args:
        task: a row with the `prompt` and the `chat` of records.TASKS.
    """
    return tuple(task["chat"]) if task["chat"] else messages(task["prompt"])


def unaided(samples: pl.DataFrame) -> pl.DataFrame:
    """The samples that tell how hard a task is: those that the policy drew without being helped."""
    return samples.filter(pl.col("generation") == "SE")


class DurableSampler:
    """Draws samples from one set of weights and keeps them in `folder`, one Parquet file a batch.

    Whatever is asked for again, in this process or after a crash, is read instead of drawn; rows
    are keyed by their content id, so none is lost or doubled.
    """

    def __init__(
        self, engine: Generator, policy_hash: str, round_key: str, folder: Path, progress: Progress
    ) -> None:
        self._engine, self._policy_hash, self._round = engine, policy_hash, round_key
        self._folder, self._progress = folder, progress
        folder.mkdir(parents=True, exist_ok=True)
        self.tokens = 0

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        """One row of records.SAMPLES per request, in the order of the requests.

        `generation` is the survey's kind (SE, R or I), `label` what the progress bar is called.
        """
        wanted = {self._id(request, sampling): request for request in requests}
        present = self._read()
        missing = [id_ for id_ in wanted if id_ not in present]
        with self._progress.stage(label, total=len(wanted), unit="samples") as bar:
            found = [present[id_] for id_ in wanted if id_ in present]
            bar.advance(len(found), tokens=_tokens(found))
            asked = [Request(id_, wanted[id_].messages, wanted[id_].seed) for id_ in missing]
            # Zero samples, but a sign of life at each token: a kill need not wait for the whole batch.
            for batch in self._engine.generate(asked, sampling, on_tokens=lambda _: bar.advance(0)):
                rows = [self._row(c, wanted[c.request_id], sampling, generation) for c in batch]
                self._write(rows)
                present |= _by_id(rows)
                bar.advance(len(rows), tokens=_tokens(rows))
        self.tokens += _tokens(present[id_] for id_ in wanted)
        return frame((present[id_] for id_ in wanted), SAMPLES)

    @contextmanager
    def one_bar(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        """Within this context all that is sampled is shown in one bar, which the caller advances."""
        outer = self._progress
        with outer.stage(label, total, unit) as bar:
            self._progress = Inside(bar)
            try:
                yield bar
            finally:
                self._progress = outer

    def _id(self, request: SampleRequest, sampling: Sampling) -> str:
        return sample_id(
            request.task_id, self._policy_hash, list(request.messages), sampling.model_dump(), request.seed
        )

    def _row(
        self, completion: Completion, request: SampleRequest, sampling: Sampling, generation: str
    ) -> dict[str, object]:
        return {
            "sample_id": completion.request_id,
            "task_id": request.task_id,
            "round": self._round,
            "policy_hash": self._policy_hash,
            "generation": generation,
            "messages": list(request.messages),
            "response": completion.response,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "sum_logprob": completion.sum_logprob,
            "mean_logprob": completion.sum_logprob / max(completion.completion_tokens, 1),
            "finish_reason": completion.finish_reason,
            "sampling": json.dumps(sampling.model_dump(), sort_keys=True),
            "seed": request.seed,
            "parent_sample_id": request.parent_sample_id,
        }

    def _read(self) -> dict[str, dict[str, object]]:
        tables = (pl.read_parquet(file, glob=False) for file in self._folder.glob("*.parquet"))
        return _by_id(row for table in tables for row in table.iter_rows(named=True))

    def _write(self, rows: list[dict[str, object]]) -> None:
        write_parquet(self._folder / f"{rows[0]['sample_id']}.parquet", frame(rows, SAMPLES))


def _tokens(rows: Iterable[dict[str, Any]]) -> int:
    """Tokens read and generated for the samples."""
    return sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)


def _by_id(rows: Iterable[dict[str, object]]) -> dict[str, dict[str, object]]:
    return {str(row["sample_id"]): row for row in rows}
