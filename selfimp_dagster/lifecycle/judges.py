"""The judges of a stage: opened when they are first asked, and never asked the same thing twice."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.chat import Chat, Choice, EngineChat, Reply
from selfimp_dagster.engines.openai_engine import OpenAIChat
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights
from selfimp_dagster.lifecycle.rewards.context import Question
from selfimp_dagster.lifecycle.rewards.sources import (
    BaseWeights,
    EndpointSource,
    IncumbentWeights,
    JudgeSource,
)
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.progress import Progress
from selfimp_dagster.records import content_id, frame
from selfimp_dagster.store import write_parquet

_KEPT = pl.Schema(
    {
        "request_id": pl.String(),
        "text": pl.String(),
        "probabilities": pl.List(pl.Float64()),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "finish_reason": pl.String(),
    }
)
_WRITE_AFTER = 64  # answers that wait to be written
_WRITE_EVERY = 5.0  # seconds that they wait at most

_Answer = TypeVar("_Answer", Reply, Choice)


class DurableJudge:
    """A judge that keeps what it said in `folder`.

    Whatever it is asked again, in this process or after a crash, is read instead of asked. A failure is not
    kept: whoever asks again may have better luck.
    """

    def __init__(self, chat: Chat, folder: Path, progress: Progress) -> None:
        self._chat, self._folder, self._progress = chat, folder, progress
        self.policy_hash = chat.policy_hash
        self.tokens = 0
        folder.mkdir(parents=True, exist_ok=True)

    def ask(self, questions: Sequence[Question], sampling: Sampling, *, label: str) -> list[Reply]:
        """What the judge says to each question."""
        ids = [self._id(question, sampling.model_dump()) for question in questions]
        return self._answers(
            Reply,
            ids,
            questions,
            lambda missing, on_tokens: self._chat.ask(missing, sampling, on_tokens),
            label,
        )

    def choose(self, questions: Sequence[Question], options: Sequence[str], *, label: str) -> list[Choice]:
        """How probable the judge finds each option as the answer to each question."""
        ids = [self._id(question, {"options": list(options)}) for question in questions]
        return self._answers(
            Choice,
            ids,
            questions,
            lambda missing, on_tokens: self._chat.choose(missing, options, on_tokens),
            label,
        )

    def _id(self, question: Question, how: dict[str, Any]) -> str:
        return content_id("judged", self._chat.identity, list(question.messages), question.seed, how)

    def _answers(
        self,
        kind: type[_Answer],
        ids: Sequence[str],
        questions: Sequence[Question],
        asked: Callable[[Sequence[Request], Callable[[int], None]], Iterator[list[_Answer]]],
        label: str,
    ) -> list[_Answer]:
        known = self._read(kind)
        wanted = dict(zip(ids, questions, strict=True))
        missing = [Request(id_, q.messages, q.seed) for id_, q in wanted.items() if id_ not in known]
        with self._progress.stage(label, total=len(wanted), unit="judgements") as bar:
            present = [known[id_] for id_ in wanted if id_ in known]
            bar.advance(len(present), tokens=_tokens(present))
            waiting: list[_Answer] = []
            written = time.monotonic()
            try:
                for batch in asked(missing, lambda count: bar.advance(0)):
                    known |= {answer.request_id: answer for answer in batch}
                    waiting += [answer for answer in batch if not answer.failure]
                    bar.advance(len(batch), tokens=_tokens(batch))
                    if len(waiting) >= _WRITE_AFTER or time.monotonic() - written >= _WRITE_EVERY:
                        self._write(waiting)
                        waiting, written = [], time.monotonic()
            finally:
                self._write(waiting)
        found = {id_: known[id_] for id_ in wanted}
        self.tokens += _tokens(found.values())
        return [found[id_] for id_ in ids]

    def _read(self, kind: type[_Answer]) -> dict[str, _Answer]:
        known: dict[str, _Answer] = {}
        for file in sorted(self._folder.glob("*.parquet")):
            for row in pl.read_parquet(file, glob=False).iter_rows(named=True):
                if (row["text"] is None) == (kind is Choice):
                    row["probabilities"] = tuple(row["probabilities"] or ())
                    known[row["request_id"]] = kind(
                        **{name: row[name] for name in kind.__dataclass_fields__.keys() & row.keys()}
                    )
        return known

    def _write(self, answers: Sequence[Reply | Choice]) -> None:
        if answers:
            rows = ({**dict.fromkeys(_KEPT), **vars(answer)} for answer in answers)
            kept = frame(({name: row[name] for name in _KEPT} for row in rows), _KEPT)
            write_parquet(self._folder / f"{answers[0].request_id}.parquet", kept)


def _tokens(answers: Iterable[Reply | Choice]) -> int:
    """Tokens read and generated for the answers."""
    return sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)


class Judges:
    """Opens the judges of a round by their sources, each once, and counts their tokens."""

    def __init__(self, bench: Workbench, policy: Policy, folder: Path) -> None:
        self._bench, self._policy, self._folder = bench, policy, folder
        self._opened: dict[JudgeSource, DurableJudge] = {}

    @property
    def tokens(self) -> int:
        return sum(judge.tokens for judge in self._opened.values())

    def judge(self, source: JudgeSource) -> DurableJudge:
        """The judge of a source.

        Raises:
            SelfimpError: its weights cannot be read, or the API key of its endpoint is not set.
        """
        if source not in self._opened:
            self._opened[source] = DurableJudge(self._chat(source), self._folder, self._bench.progress)
        return self._opened[source]

    def _chat(self, source: JudgeSource) -> Chat:
        if isinstance(source, EndpointSource):
            return OpenAIChat(source)
        if isinstance(source, IncumbentWeights):
            folder = incumbent_weights(self._bench, self._policy)
        else:
            base = self._policy.campaign.model
            model = base if isinstance(source, BaseWeights) else source.model
            folder = resolve_model(model, self._bench.models)
        return EngineChat(self._bench.engines.engine(folder, policy_hash(folder)))
