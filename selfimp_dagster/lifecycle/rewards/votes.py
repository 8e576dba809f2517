"""Rewards by votes: whether most samples of a task give the same answer, and by how far it is ahead."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer

_NAME, _MARGIN = "majority_vote", "vote_margin"


class MajorityVote(BaseModel):
    """Parameters of `majority_vote`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VoteMargin(BaseModel):
    """Parameters of `vote_margin`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method(
    "reward",
    _NAME,
    parameters=MajorityVote,
    section="4.3",
    paper="arXiv:2210.11610",
    gives=frozenset({"votes", "ordering"}),
)
def majority_vote(context: RewardContext, parameters: MajorityVote) -> pl.DataFrame:
    """1 for the most frequent answer among a task's samples, 0 for any other (kind H); no ground truth.

    In: all samples of a task; signal: how many agree (LMSI); out: the value, with the share of the task's
    samples that give this response's answer as its confidence. Answers are compared in the form in which
    votes are counted. Where two answers are equally frequent neither is the majority. A response without an
    answer has 0 and no confidence. Demonstrations do not vote: theirs is the answer that came with the task.
    """
    rows = []
    for tally in tallies(context):
        leaders = tally.votes.most_common(2)
        tied = len(leaders) == 2 and leaders[0][1] == leaders[1][1]
        for ballot in tally.ballots:
            wins = not tied and bool(leaders) and ballot.answer == leaders[0][0]
            rows.append(tally.row(_NAME, ballot, float(wins)))
    return frame(rows, REWARDS)


@method(
    "reward",
    _MARGIN,
    parameters=VoteMargin,
    section="4.3",
    paper="arXiv:2411.04109",
    gives=frozenset({"votes", "ordering"}),
)
def vote_margin(context: RewardContext, parameters: VoteMargin) -> pl.DataFrame:
    """By how many of a task's votes a response's answer is ahead of the best other answer (kind H).

    In: all samples of a task; signal: their votes, counted as in `majority_vote`; out: the votes for the
    answer minus the most votes that another answer has, over all votes: 1 if all agree, 0 for a tie, below 0
    for an answer that another one beats. ScPO (Prasad et al., section 3.2) weighs a pair by the same
    difference between the two answers of the pair; here each answer is held against its strongest rival. The
    confidence is the answer's share of the votes. A response without an answer has no votes.
    """
    rows = []
    for tally in tallies(context):
        for ballot in tally.ballots:
            rivals = [count for answer, count in tally.votes.items() if answer != ballot.answer]
            ahead = tally.given(ballot) - max(rivals, default=0)
            rows.append(tally.row(_MARGIN, ballot, ahead / max(1, tally.cast)))
    return frame(rows, REWARDS)


@dataclass(frozen=True)
class Ballot:
    """What one sample votes for; a demonstration is shown, and does not vote."""

    sample_id: str
    shown: bool
    answer: str | None


@dataclass(frozen=True)
class Tally:
    """The ballots of one task, and how often each answer was given by those that vote."""

    ballots: tuple[Ballot, ...]

    @cached_property
    def votes(self) -> Counter[str]:
        return Counter(b.answer for b in self.ballots if not b.shown and b.answer is not None)

    @cached_property
    def cast(self) -> int:
        return sum(not ballot.shown for ballot in self.ballots)

    def given(self, ballot: Ballot) -> int:
        """The votes for the answer of a ballot."""
        return self.votes[ballot.answer] if ballot.answer is not None else 0

    def row(self, reward: str, ballot: Ballot, value: float) -> dict[str, Any]:
        """The judgement of a sample (records.REWARDS); a demonstration has the full value."""
        return {
            "sample_id": ballot.sample_id,
            "reward": reward,
            "kind": "H",
            "value": 1.0 if ballot.shown else value,
            "confidence": 1.0 if ballot.shown else self.given(ballot) / self.cast,
            "evidence": "demonstration" if ballot.shown else f"{self.given(ballot)} of {self.cast} votes",
        }


def tallies(context: RewardContext) -> Iterator[Tally]:
    """The votes of each task's samples, in the order in which the tasks appear."""
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    for (task_id,), samples in context.samples.partition_by(
        "task_id", as_dict=True, maintain_order=True
    ).items():
        rows = samples.select("sample_id", "generation", "response").iter_rows()
        yield Tally(
            tuple(
                Ballot(id_, generation == "D", comparable_answer(tasks[str(task_id)], response))
                for id_, generation, response in rows
            )
        )
