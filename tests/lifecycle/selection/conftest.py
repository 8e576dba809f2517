"""Corpora by hand: a task per prompt, a sample per response."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest

from selfimp_dagster.lifecycle.selection import EARLIER, SelectionContext, SelectionStep
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame

Corpus = Callable[..., SelectionContext]
Judge = Callable[..., dict[str, dict[str, Any]]]


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


def make_corpus(
    samples: Sequence[tuple[str, str, str]],
    *,
    rewards: dict[str, float | None] | None = None,
    earlier: Sequence[tuple[str, str, str, str]] = (),
    items: Sequence[tuple[str, str]] = (),
    item_skill: str = "sums",
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
        earlier=frame(
            [
                {"sample_id": s, "task_id": f"task {p}", "round": r, "prompt": p, "response": response}
                for s, r, p, response in earlier
            ],
            EARLIER,
        ),
        evaluation_items=frame([_task(item, p, item_skill) for item, p in items], TASKS),
        seed=0,
    )


def judge_step(name: str, context: SelectionContext, **parameters: Any) -> dict[str, dict[str, Any]]:
    """What one step alone says of every sample, by sample id."""
    step = SelectionStep.of(name, **parameters)
    task = context.tasks.select("task_id", "skill", "difficulty", "prompt", "answer")
    rows = context.samples.join(task, on="task_id")
    judgements: pl.DataFrame = step.method.function(rows, context, step.parameters)
    return {row["sample_id"]: row for row in judgements.iter_rows(named=True)}


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return make_corpus


@pytest.fixture(scope="session")
def judge() -> Judge:
    return judge_step
