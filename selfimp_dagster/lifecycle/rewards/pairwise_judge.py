"""The reward `pairwise_judge`: which of the responses to a task a model prefers."""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar, Literal, NamedTuple

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.evaluation.statistics import bradley_terry
from selfimp_dagster.lifecycle.rewards.context import Question, RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import JudgeParameters
from selfimp_dagster.lifecycle.rewards.verdicts import (
    FORGED,
    Verdict,
    forges,
    question,
    quoted,
    read_choice,
    read_reply,
)
from selfimp_dagster.records import REWARDS, canonical_json, derive_seed, frame
from selfimp_dagster.registry import method

PAIRWISE_JUDGE = "pairwise_judge"

_VERDICT = re.compile(r"Verdict: ?(A|B|tie)", re.IGNORECASE)
_WORDS = ("A", "B")
_SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5}


class PairwiseJudge(JudgeParameters):
    """Parameters of `pairwise_judge`."""

    absolute: ClassVar[bool] = False

    repeats: int = Field(
        default=1,
        ge=1,
        le=32,
        description="How often each pair is judged in words, in both orders, each time with new seeds.",
    )
    pairs_per_task: int = Field(
        default=6, ge=1, description="Pairs of different responses that are compared for each task, at most."
    )
    strength: Literal["bradley_terry", "win_rate"] = Field(
        default="bradley_terry",
        description="bradley_terry: the chance to win against the other responses, which allows for who met "
        "whom; win_rate: the share of comparisons that were won.",
    )


class Game(NamedTuple):
    """A comparison of two responses, numbered within their task, in both orders.

    `first` is what came of it for `one` where it was shown first, `second` where it was shown second: 1 won,
    0.5 drawn, 0 lost, None where the reply could not be read.
    """

    one: int
    other: int
    first: float | None
    second: float | None
    rejected: tuple[str, ...] = ()

    @property
    def score(self) -> float | None:
        """What came of it for `one`; None where the orders do not agree."""
        return self.first if self.first == self.second else None

    def turned(self) -> "Game":
        """The same game as the other response saw it."""
        first, second = (None if s is None else 1 - s for s in (self.second, self.first))
        return Game(self.other, self.one, first, second, self.rejected)


class _Pair(NamedTuple):
    task_id: str
    prompt: str
    one: int
    other: int
    repeat: int
    texts: tuple[str, str]


@method(
    "reward",
    PAIRWISE_JUDGE,
    parameters=PairwiseJudge,
    section="4.3",
    paper="arXiv:2306.05685",
    gives=frozenset({"ordering"}),
)
def pairwise_judge(context: RewardContext, parameters: PairwiseJudge) -> pl.DataFrame:
    """A model compares the responses to a task in pairs, in both orders (kind M).

    Signal: which of two different responses the judge prefers; a verdict counts only where both orders give
    the same (Zheng et al., arXiv:2306.05685, section 3.4; there an inconsistent pair is a tie, here it is no
    comparison). The value is the chance to win against the other responses of the task, from Bradley-Terry
    strengths, or the share of comparisons won; equal responses share it. The confidence is the share of the
    response's comparisons in which the orders agreed. A response without a counting comparison has no value.
    """
    groups = {
        task: _different(samples)
        for (task,), samples in context.samples.sort("task_id", "sample_id")
        .partition_by("task_id", as_dict=True, maintain_order=True)
        .items()
    }
    prompts = dict(context.tasks.select("task_id", "prompt").iter_rows())
    pairs = [
        _Pair(task, prompts[task], one, other, repeat, (texts[one], texts[other]))
        for task, texts in ((task, [text for text, _ in different]) for task, different in groups.items())
        for one, other in chosen_pairs(len(texts), parameters.pairs_per_task, derive_seed(context.seed, task))
        for repeat in range(parameters.repeats if parameters.reading == "words" else 1)
    ]
    games: dict[str, list[Game]] = {task: [] for task in groups}
    judged = _in_words if parameters.reading == "words" else _by_probability
    for pair, game in zip(pairs, judged(pairs, context, parameters), strict=True):
        games[pair.task_id].append(game)
    told = {"reward": parameters.name or PAIRWISE_JUDGE, "kind": "M"}
    rows = []
    for task, different in groups.items():
        samples = [ids for _, ids in different]
        for ids, row in zip(samples, standing(samples, games[task], parameters.strength), strict=True):
            rows += [{"sample_id": id_, **told, **row} for id_ in ids]
    return frame(rows, REWARDS)


def chosen_pairs(responses: int, at_most: int, seed: int) -> list[tuple[int, int]]:
    """The pairs that are compared: all of them, or a ring, so that all meet somebody, and others by lot."""
    every = list(combinations(range(responses), 2))
    if len(every) <= at_most:
        return every
    lot = random.Random(seed)
    circle = lot.sample(range(responses), responses)
    ring = [(min(a, b), max(a, b)) for a, b in zip(circle, [*circle[1:], circle[0]], strict=True)]
    others = sorted(set(every) - set(ring))
    lot.shuffle(others)
    return [*ring, *others][:at_most]


def standing(
    samples: Sequence[Sequence[str]], games: Sequence[Game], strength: Literal["bradley_terry", "win_rate"]
) -> list[dict[str, Any]]:
    """Value, confidence and evidence of each different response to a task.

    Args:
        samples: the ids of the samples that gave each response.
        games: the comparisons, by place in `samples`.
    """
    counted = [(game.one, game.other, game.score) for game in games if game.score is not None]
    values = (_chances if strength == "bradley_terry" else _win_rates)(len(samples), counted)
    return [_row(number, value, samples, games) for number, value in enumerate(values)]


def _row(
    number: int, value: float, samples: Sequence[Sequence[str]], games: Sequence[Game]
) -> dict[str, Any]:
    own = {
        f"{samples[game.one][0]}:{place}": game if game.one == number else game.turned()
        for place, game in enumerate(games)
        if number in (game.one, game.other)
    }
    orders = [
        {"game": name, "against": samples[game.other][0], "first": game.first, "second": game.second}
        for name, game in own.items()
    ]
    rejected = [why for game in own.values() for why in game.rejected]
    agreed = sum(game.score is not None for game in own.values())
    return {
        "value": value if agreed else None,
        "confidence": agreed / len(own) if own else 0.0,
        "evidence": canonical_json(
            {"orders": orders, "rejected": rejected if own else ["there is no different response"]}
        ),
    }


def _different(samples: pl.DataFrame) -> list[tuple[str, list[str]]]:
    """The different responses, up to white space, each with the samples that gave it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for id_, response in samples.select("sample_id", "response").iter_rows():
        found.setdefault(" ".join(response.split()), (response, []))[1].append(id_)
    return list(found.values())


def _chances(responses: int, games: Sequence[tuple[int, int, float]]) -> list[float]:
    """Each response's chance to win against another one of the task, by Bradley-Terry strengths."""
    strengths = bradley_terry(responses, games)
    return [
        fmean(own / (own + other) for place, other in enumerate(strengths) if place != number)
        if responses > 1
        else 0.5
        for number, own in enumerate(strengths)
    ]


def _win_rates(responses: int, games: Sequence[tuple[int, int, float]]) -> list[float]:
    """The share of each response's comparisons that it won, a draw as half; 0.5 without any."""
    scores: list[list[float]] = [[] for _ in range(responses)]
    for one, other, score in games:
        scores[one].append(score)
        scores[other].append(1 - score)
    return [fmean(own) if own else 0.5 for own in scores]


def _in_words(pairs: Sequence[_Pair], context: RewardContext, parameters: PairwiseJudge) -> Iterator[Game]:
    honest = [not any(forges(text, _VERDICT) for text in pair.texts) for pair in pairs]
    questions = [
        _question(
            pair,
            shown,
            "Reply with a short reason, and then on a last line of its own with the word Verdict, a colon "
            "and A, B or tie.",
            derive_seed(context.seed, PAIRWISE_JUDGE, pair.task_id, *shown, pair.repeat),
        )
        for pair, asked in zip(pairs, honest, strict=True)
        if asked
        for shown in (pair.texts, pair.texts[::-1])
    ]
    label = f"{parameters.name or PAIRWISE_JUDGE}: comparing"
    replies = context.judge(parameters.judge).ask(questions, parameters.sampling, label=label)
    verdicts = iter([read_reply(reply, _VERDICT) for reply in replies])
    for pair, asked in zip(pairs, honest, strict=True):
        if asked:
            yield _game(pair, next(verdicts), next(verdicts))
        else:
            yield Game(pair.one, pair.other, None, None, (FORGED,))


def _game(pair: _Pair, forward: Verdict, backward: Verdict) -> Game:
    """What came of a pair; `backward` is the verdict with the second response in the first place."""
    first = _SCORE[forward.said.lower()] if forward.said else None
    second = 1 - _SCORE[backward.said.lower()] if backward.said else None
    rejected = tuple(verdict.rejected for verdict in (forward, backward) if verdict.rejected)
    return Game(pair.one, pair.other, first, second, rejected)


def _by_probability(
    pairs: Sequence[_Pair], context: RewardContext, parameters: PairwiseJudge
) -> Iterator[Game]:
    questions = [
        _question(pair, shown, "Reply with one letter, A or B.", 0)
        for pair in pairs
        for shown in (pair.texts, pair.texts[::-1])
    ]
    label = f"{parameters.name or PAIRWISE_JUDGE}: comparing"
    choices = context.judge(parameters.judge).choose(questions, _WORDS, label=label)
    read = [read_choice(choice) for choice in choices]
    for number, pair in enumerate(pairs):
        (forward, why), (backward, why_not) = read[2 * number : 2 * number + 2]
        first = None if why else _side(forward)
        second = None if why_not else 1 - _side(backward)
        yield Game(pair.one, pair.other, first, second, tuple(reason for reason in (why, why_not) if reason))


def _side(probability: float) -> float:
    return 0.5 if probability == 0.5 else float(probability > 0.5)


def _question(pair: _Pair, shown: tuple[str, ...], form: str, seed: int) -> Question:
    first, second = shown
    return question(
        seed,
        "You compare two answers to a question.",
        f"The question:\n{quoted(pair.prompt)}",
        f"Answer A:\n{quoted(first)}",
        f"Answer B:\n{quoted(second)}",
        f"Which answer is better? What matters first is whether it is right. {form}",
    )
