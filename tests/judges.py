"""Judges that say what a test tells them, and something for them to judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.engines.chat import Choice, Reply
from selfimp_dagster.lifecycle.rewards.context import Question, RewardContext
from selfimp_dagster.lifecycle.rewards.judging import Reward
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame
from selfimp_dagster.registry import find_method


@dataclass
class ScriptedJudge:
    """Says what `say` gives for a question's text and seed, and finds `probable` for its options."""

    say: Callable[[str, int], str | Reply] = lambda text, seed: ""
    probable: Callable[[str], tuple[float, ...]] = lambda text: (1.0, 0.0)
    policy_hash: str | None = None
    asked: list[str] = field(default_factory=list)

    def ask(self, questions: Sequence[Question], sampling: Sampling, *, label: str) -> list[Reply]:
        return [self._reply(question) for question in questions]

    def choose(self, questions: Sequence[Question], options: Sequence[str], *, label: str) -> list[Choice]:
        self.asked += [_text(question) for question in questions]
        return [Choice("", self.probable(_text(question))) for question in questions]

    def _reply(self, question: Question) -> Reply:
        self.asked.append(_text(question))
        said = self.say(_text(question), question.seed)
        return said if isinstance(said, Reply) else Reply("", said)


def _text(question: Question) -> str:
    (message,) = question.messages
    return message["content"]


def quotations(text: str) -> list[str]:
    """What a question quotes, each as one text."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.startswith(">"):
            found[-1].append(line.removeprefix(">").removeprefix(" "))
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def reward_context(
    responses: dict[str, Sequence[str]],
    judge: ScriptedJudge | None = None,
    *,
    drawn_by: str = "policy",
    answers: dict[str, str] | None = None,
    rewards: pl.DataFrame | None = None,
    **more: Any,
) -> RewardContext:
    """Samples s0, s1, ... of tasks that are named by their prompts."""
    tasks = [
        {
            "task_id": prompt,
            "pool": "train",
            "skill": "sums",
            "suite": "file:sums.jsonl",
            "prompt": prompt,
            "answer": (answers or {}).get(prompt, "2"),
            "verifier": "exact",
            "source": "file",
            "parent_ids": [],
            "generation_depth": 0,
        }
        for prompt in responses
    ]
    given = [(prompt, response) for prompt, texts in responses.items() for response in texts]
    samples = [
        {
            "sample_id": f"s{number}",
            "task_id": prompt,
            "response": response,
            "generation": "SE",
            "policy_hash": drawn_by,
        }
        for number, (prompt, response) in enumerate(given)
    ]

    def opened(source: JudgeSource) -> ScriptedJudge:
        assert judge is not None
        return judge

    return RewardContext(
        frame(tasks, TASKS),
        frame(samples, SAMPLES),
        REWARDS.to_frame() if rewards is None else rewards,
        seed=0,
        judge=opened,
        **more,
    )


def reward(method: str, **parameters: Any) -> Reward:
    """A reward of the registry with these parameters."""
    found = find_method("reward", method)
    return Reward(found, found.parameters.model_validate(parameters))


def judged(chosen: Reward, context: RewardContext) -> dict[str, dict[str, Any]]:
    """What one reward alone says of every sample, by sample id."""
    rows = chosen.method.function(context, chosen.parameters)
    return {row["sample_id"]: row for row in rows.iter_rows(named=True)}
