"""Corpora by hand: a task per prompt, a sample per response."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from selfimp_dagster.engines.base import Engine, Message, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.rewards.context import Judge
from selfimp_dagster.lifecycle.selection import EARLIER, HeldRows, SelectionContext, SelectionStep
from selfimp_dagster.lifecycle.selection.models import Models, Role
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame

Corpus = Callable[..., SelectionContext]
JudgeStep = Callable[..., dict[str, dict[str, Any]]]


def _task(task_id: str, prompt: str, skill: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "pool": "train",
        "skill": skill,
        "suite": "test",
        "difficulty": 1.0,
        "prompt": prompt,
        "answer": None,
        "verifier": "exact",
        "entry": "{}",
        "source": "test",
        "parent_ids": [],
        "generation_depth": 0,
    }


def _sample(sample_id: str, task_id: str, prompt: str, response: str) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "task_id": task_id,
        "round": "test/0001",
        "policy_hash": "policy",
        "generation": "SE",
        "messages": [{"role": "user", "content": prompt}],
        "response": response,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "sum_logprob": -1.0,
        "mean_logprob": -1.0,
        "finish_reason": "stop",
        "sampling": "{}",
        "seed": 0,
        "parent_sample_id": None,
    }


class Scripted:
    """An engine that says what it was told to say of a text; of any other, a token of probability 1/2.

    `logprobs` is by the last message ("" where there is none) and the response, `embeddings` by the text.
    """

    policy_hash = "scripted"

    def __init__(
        self,
        logprobs: Mapping[tuple[str, str], Sequence[float]] | None = None,
        embeddings: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._logprobs, self._embeddings = logprobs or {}, embeddings or {}

    def generate(self, requests: Any, sampling: Sampling, on_tokens: Any = None) -> Any:
        raise AssertionError("selection draws nothing")

    def logprobs(
        self,
        pairs: Sequence[tuple[tuple[Message, ...], str]],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[list[float]]:
        on_tokens(len(pairs))
        asked = [(messages[-1]["content"] if messages else "", response) for messages, response in pairs]
        return [list(self._logprobs.get(key, [np.log(0.5)])) for key in asked]

    def embed(
        self, texts: Sequence[str], on_tokens: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        on_tokens(len(texts))
        width = max(map(len, self._embeddings.values()), default=1)
        rows = np.array([self._embeddings[text] for text in texts], dtype=float).reshape(len(texts), width)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted"}


def make_models(engine: Engine | None = None, folder: Path = Path()) -> Models:
    """Models that all roles share."""

    def load(folder: Path, policy_hash: str) -> Engine:
        assert engine is not None, "this step needs no engine"
        return engine

    def weights(role: Role) -> tuple[Path, str]:
        return folder, role

    return Models(weights, load, LogProgress(lambda line: None))


def make_corpus(
    samples: Sequence[tuple[str, str, str]],
    *,
    rewards: dict[str, float | None] | None = None,
    earlier: Sequence[tuple[str, str, str, str]] = (),
    items: Sequence[tuple[str, str]] = (),
    item_skill: str = "sums",
    models: Models | None = None,
    judge: Judge | None = None,
) -> SelectionContext:
    """Samples as (sample_id, prompt, response); a task is its prompt. Rewards are named `answer`.

    Earlier rows are (sample_id, round, prompt, response), evaluation items (item_id, prompt).
    """
    prompts = dict.fromkeys(prompt for _, prompt, _ in samples)
    return SelectionContext(
        tasks=frame([_task(f"task {p}", p, "sums") for p in prompts], TASKS),
        samples=frame([_sample(s, f"task {p}", p, response) for s, p, response in samples], SAMPLES),
        rewards=frame(
            [
                {
                    "sample_id": s,
                    "reward": "answer",
                    "kind": "V",
                    "value": value,
                    "confidence": 1.0,
                    "evidence": f"judged {s}",
                }
                for s, value in (rewards or {}).items()
            ],
            REWARDS,
        ),
        earlier=HeldRows(
            frame(
                [
                    {"sample_id": s, "task_id": f"task {p}", "round": r, "prompt": p, "response": response}
                    for s, r, p, response in earlier
                ],
                EARLIER,
            )
        ),
        evaluation_items=frame([_task(item, p, item_skill) for item, p in items], TASKS),
        seed=0,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        models=models or make_models(),
        judge=lambda source: opened(judge),
    )


def opened(judge: Judge | None) -> Judge:
    assert judge is not None, "this step needs no judge"
    return judge


def rows_of(context: SelectionContext) -> pl.DataFrame:
    """The corpus as the first step of a chain gets it."""
    task = context.tasks.select("task_id", "skill", "difficulty", "prompt", "answer")
    return context.samples.join(task, on="task_id").sort("task_id", "sample_id")


def judge_step(name: str, context: SelectionContext, **parameters: Any) -> dict[str, dict[str, Any]]:
    """What one step alone says of every sample, by sample id."""
    step = SelectionStep.of(name, **parameters)
    result = step.method.function(rows_of(context), context, step.parameters)
    judgements: pl.DataFrame = result[0] if step.method.state else result
    assert judgements["score"].fill_null(0).is_finite().all()
    return {row["sample_id"]: row for row in judgements.iter_rows(named=True)}


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return make_corpus


@pytest.fixture(scope="session")
def judge() -> JudgeStep:
    return judge_step


@pytest.fixture(scope="session")
def scripted() -> Callable[..., Models]:
    """Models that say what they are told to."""
    return lambda **said: make_models(Scripted(**said))


@pytest.fixture(scope="session")
def tiny_models(tiny_model: Path) -> Models:
    """The tiny model as incumbent and as base."""
    return make_models(TransformersEngine(tiny_model, dtype="float32", device="cpu"), tiny_model)
