"""What refinement methods share: asking the policy turn by turn, and counting votes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.refinement.refined import RefinementContext
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import SAMPLES, derive_seed, frame
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import comparable_answer

Row = dict[str, Any]
"""One sample, a row of records.SAMPLES."""


@dataclass(frozen=True)
class Turn:
    """One thing that the policy is asked about a task; `parent` is the sample that it goes on from."""

    task_id: str
    messages: tuple[Message, ...]
    parent: str | None = None


class Conversation:
    """Asks the policy for many tasks at a time, and keeps every sample that it was given.

    `before` are the plain greedy answers by task, `practice` the tasks to try things on.
    """

    def __init__(self, context: RefinementContext, practice: int = 0) -> None:
        self._context = context
        self.practice: list[Task] = tasks_from_frame(context.practice.sort("task_id").head(practice))
        self._drawn = [SAMPLES.to_frame()]
        self._tokens: Counter[str] = Counter()
        self.tasks: list[Task] = tasks_from_frame(context.tasks)
        self.before: dict[str, Row] = {row["task_id"]: row for row in context.before.iter_rows(named=True)}

    @property
    def samples(self) -> pl.DataFrame:
        """All that was drawn (records.SAMPLES)."""
        return pl.concat(self._drawn)

    def tokens(self, task_id: str) -> int:
        """Tokens read and generated for a task so far."""
        return self._tokens[task_id]

    def shared_tokens(self) -> int:
        """What asking about the tasks to practise on cost, in equal parts for each task that is answered."""
        answered = {task.task_id for task in self.tasks}
        spent = sum(tokens for id_, tokens in self._tokens.items() if id_ not in answered)
        return spent // len(self.tasks)

    def practised(self, chats: Mapping[str, tuple[Message, ...]], label: str) -> float:
        """The mean value of the recipe's first reward for greedy answers to the practice tasks, asked so.

        An answer that is not judged counts as 0.
        """
        rows = self.ask(
            [Turn(id_, chat) for id_, chat in chats.items()],
            label,
            temperature=0,
            max_new_tokens=self._context.max_new_tokens,
            generation="I",
        )
        values = self._context.judge(frame(rows, SAMPLES))
        return sum(values.values()) / len(rows)

    def plain(self, task: Task) -> tuple[Message, ...]:
        """The chat that asks the task as every stage does."""
        return self._context.messages(task.prompt)

    def ask(
        self, turns: Sequence[Turn], label: str, *, temperature: float, max_new_tokens: int, generation: str
    ) -> list[Row]:
        """One response per turn, in their order. Turns that are alike are drawn apart.

        `label` names the step, in the progress bar and in the seeds: a method must not use one twice.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        requests = [
            SampleRequest(
                turn.task_id,
                turn.messages,
                derive_seed(self._context.seed, label, turn.task_id, number),
                turn.parent,
            )
            for number, turn in enumerate(turns)
        ]
        drawn = self._context.sample(requests, sampling, generation=generation, label=label)
        self._drawn.append(drawn)
        rows = drawn.to_dicts()
        for row in rows:
            self._tokens[row["task_id"]] += row["prompt_tokens"] + row["completion_tokens"]
        return rows

    def draw(self, label: str, *, times: int, temperature: float, max_new_tokens: int) -> list[list[Row]]:
        """Several samples of every task as it is asked plainly (generation SE), task by task."""
        turns = [Turn(task.task_id, self.plain(task)) for task in self.tasks for _ in range(times)]
        rows = self.ask(turns, label, temperature=temperature, max_new_tokens=max_new_tokens, generation="SE")
        return [rows[start : start + times] for start in range(0, len(rows), times)]


def replied(messages: tuple[Message, ...], response: str, then: str) -> tuple[Message, ...]:
    """The chat in which the policy gave that response and is asked something else next."""
    return (*messages, {"role": "assistant", "content": response}, {"role": "user", "content": then})


def added(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The chat with a paragraph more in its last turn."""
    *before, last = messages
    return (*before, {**last, "content": f"{last['content']}\n\n{text}"})


def weighted_winner(
    task: Task, ballots: Sequence[tuple[Row, float]], greedy: Row
) -> tuple[Row, float] | None:
    """The sample that carries the answer with the most weight, and that answer's share of all weight.

    The carrier is the shortest response that gives the answer. Ties go to the answer of `greedy` if it is
    among the first, else to the answer that comes first. None if no response has an answer; one without does
    not vote, but its weight counts in the share.
    """
    weights: dict[str, float] = {}
    carriers: dict[str, list[Row]] = {}
    for row, weight in ballots:
        answer = comparable_answer(task, row["response"])
        if answer is not None:
            weights[answer] = weights.get(answer, 0.0) + weight
            carriers.setdefault(answer, []).append(row)
    if not weights:
        return None
    most = max(weights.values())
    leaders = [answer for answer, weight in weights.items() if weight >= most * (1 - 1e-9)]
    preferred = comparable_answer(task, greedy["response"])
    winner = preferred if preferred in leaders else leaders[0]
    carrier = min(carriers[winner], key=lambda row: (len(row["response"]), row["sample_id"]))
    return carrier, weights[winner] / sum(weight for _, weight in ballots)
