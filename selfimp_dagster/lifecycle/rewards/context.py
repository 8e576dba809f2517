"""What a reward is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.engines.chat import Choice, Reply
from selfimp_dagster.lifecycle.companions import Companion
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource
from selfimp_dagster.records import PROPOSALS


@dataclass(frozen=True)
class Question:
    """One thing that a judge is asked; with another seed it may answer otherwise."""

    messages: tuple[Message, ...]
    seed: int = 0


class Judge(Protocol):
    """A model that is asked for judgements. Both methods answer in the order of the questions.

    `policy_hash` is that of its weights, None where nobody can see them; `label` names the progress bar.
    """

    policy_hash: str | None

    def ask(self, questions: Sequence[Question], sampling: Sampling, *, label: str) -> list[Reply]: ...

    def choose(
        self, questions: Sequence[Question], options: Sequence[str], *, label: str
    ) -> list[Choice]: ...


def nobody(source: JudgeSource) -> Judge:
    """Where there are no judges.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"there is no judge here, not even {source.label}")


def _untrained(name: str) -> Companion | None:
    return None


def _plain(prompt: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},)


@dataclass(frozen=True)
class RewardContext:
    """What a reward may look at, and whom it may ask.

    `tasks` (records.TASKS) and the `samples` of them (records.SAMPLES) that are to be judged; `rewards` are
    the judgements (records.REWARDS) of the rewards that stand before this one in the recipe. `judge` opens
    the judge of a source, `companion` the companion of a name, none where none was trained yet; `messages`
    turns a prompt into the chat that asks it. `barred` are rewards that say nothing in this round, with the
    reason; `proposals` (records.PROPOSALS) say what became of the samples that propose tasks.
    """

    tasks: pl.DataFrame
    samples: pl.DataFrame
    rewards: pl.DataFrame
    seed: int
    judge: Callable[[JudgeSource], Judge] = nobody
    barred: Mapping[str, str] = field(default_factory=dict)
    companion: Callable[[str], Companion | None] = _untrained
    messages: Callable[[str], tuple[Message, ...]] = _plain
    proposals: pl.DataFrame = field(default_factory=PROPOSALS.to_frame)
