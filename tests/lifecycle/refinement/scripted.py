"""A policy that says what a function of the last turn tells it to say."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import polars as pl

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.refinement.refined import SOLVED, Refined, RefinementContext, Said
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import SAMPLES, TASKS, frame
from selfimp_dagster.registry import find_method

Say = Callable[[str], str | tuple[str, float]]
"""What to answer to the last turn of a chat, alone or with the response's mean log-probability."""


def in_turn(*said: str | tuple[str, float]) -> Say:
    """Says one thing after the other, whatever it is asked."""
    waiting: Iterator[str | tuple[str, float]] = iter(said)
    return lambda asked: next(waiting)


class Policy:
    """Answers by script, and notes the chats that it was asked and in which generation."""

    def __init__(self, say: Say) -> None:
        self._say, self._numbers = say, count()
        self.chats: list[tuple[Message, ...]] = []
        self.generations: list[str] = []
        self.against: Any = None
        self.adapters: list[Adapter] = []

    @contextmanager
    def adapt(self, *, rank: int, learning_rate: float) -> Iterator["Adapter"]:
        self.adapters.append(Adapter(self))
        yield self.adapters[-1]
        self.adapters[-1].done.append("removed")

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        assert len({(r.task_id, str(r.messages), r.seed) for r in requests}) == len(requests)
        empty: dict[str, Any] = dict.fromkeys(SAMPLES)
        rows = []
        for request in requests:
            self.chats.append(request.messages)
            self.generations.append(generation)
            said = self._say(request.messages[-1]["content"])
            response, logprob = said if isinstance(said, tuple) else (said, -1.0)
            rows.append(
                {
                    **empty,
                    "sample_id": f"s{next(self._numbers)}",
                    "task_id": request.task_id,
                    "generation": generation,
                    "messages": list(request.messages),
                    "response": response,
                    "prompt_tokens": 10,
                    "completion_tokens": 1,
                    "mean_logprob": logprob,
                    "parent_sample_id": request.parent_sample_id,
                }
            )
        return frame(rows, SAMPLES)


class Adapter:
    """Notes what it is asked to learn, as responses with their weights; each step reads 100 tokens."""

    def __init__(self, policy: Policy) -> None:
        self.sample = policy.sample
        self.tokens = 0
        self.done: list[Any] = []

    def reset(self) -> None:
        self.done.append("reset")

    def step(self, responses: Sequence[Said], weights: Sequence[float]) -> None:
        self.tokens += 100
        self.done.append(
            [
                (chat[-1]["content"], said, weight)
                for (chat, said, _), weight in zip(responses, weights, strict=True)
            ]
        )


def make_refinement(
    policy: Policy,
    before: Mapping[str, str],
    values: Mapping[str, float] | None = None,
    practice: Sequence[str] = (),
    solved: Mapping[str, str] | None = None,
    judged: list[str | None] | None = None,
    notes: dict[str, Any] | None = None,
    embedded: Mapping[str, Sequence[float]] | None = None,
    difficulty: Mapping[str, float] | None = None,
) -> RefinementContext:
    """A context of numeric tasks, prompt to greedy answer; `values` rewards responses by their text.

    `practice` are the prompts to try things on, `solved` right answers to some of them; `judged` notes the
    names of the rewards that were asked, `notes` what the method records. `embedded` and `difficulty` are of
    prompts.
    """
    greedy = frame(
        (
            {
                **dict.fromkeys(SAMPLES),
                "sample_id": f"greedy {prompt}",
                "task_id": prompt,
                "response": response,
                "generation": "SE",
            }
            for prompt, response in before.items()
        ),
        SAMPLES,
    )

    def judge(samples: pl.DataFrame, reward: str | None = None) -> dict[str, float]:
        if judged is not None:
            judged.append(reward)
        known = values or {}
        return {
            id_: known[response]
            for id_, response in samples.select("sample_id", "response").iter_rows()
            if response in known
        }

    return RefinementContext(
        tasks=_tasks(before, difficulty),
        before=greedy,
        practice=_tasks(practice, difficulty),
        solved=frame(
            (
                {"task_id": prompt, "skill": "sums", "prompt": prompt, "response": response}
                for prompt, response in (solved or {}).items()
            ),
            SOLVED,
        ),
        sample=policy.sample,
        adapt=policy.adapt,
        embed=lambda texts: np.array([(embedded or {})[text] for text in texts]),
        sample_against=lambda amateur, plausibility, temperature: policy.against,
        judge=judge,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        max_new_tokens=8,
        seed=0,
        note=(notes if notes is not None else {}).__setitem__,
    )


def refine(
    name: str,
    policy: Policy,
    before: Mapping[str, str],
    values: Mapping[str, float] | None = None,
    practice: Sequence[str] = (),
    solved: Mapping[str, str] | None = None,
    judged: list[str | None] | None = None,
    notes: dict[str, Any] | None = None,
    embedded: Mapping[str, Sequence[float]] | None = None,
    difficulty: Mapping[str, float] | None = None,
    **parameters: Any,
) -> tuple[dict[str, str], dict[str, Refined]]:
    """Runs a method in such a context.

    Returns the responses that carry the new answers, and the method's own words on them, by prompt.
    """
    context = make_refinement(policy, before, values, practice, solved, judged, notes, embedded, difficulty)
    method = find_method("refinement", name)
    samples, refined = method.function(context, method.parameters.model_validate(parameters))
    responses = dict(pl.concat([context.before, samples]).select("sample_id", "response").iter_rows())
    assert [answer.task_id for answer in refined] == list(before)
    return {answer.task_id: responses[answer.sample_id] for answer in refined}, {
        answer.task_id: answer for answer in refined
    }


def _tasks(prompts: Iterable[str], difficulty: Mapping[str, float] | None) -> pl.DataFrame:
    return frame(
        (
            {
                **dict.fromkeys(TASKS),
                "task_id": prompt,
                "skill": "sums",
                "difficulty": (difficulty or {}).get(prompt),
                "prompt": prompt,
                "answer": "0",
                "verifier": "exact",
                "parent_ids": [],
            }
            for prompt in prompts
        ),
        TASKS,
    )
