"""The reward `judge`: what a model thinks of each response by itself."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import fmean, pstdev
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.chat import Choice
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

JUDGE = "judge"

GRADE = re.compile(r"Grade: ?(\d{1,3})", re.IGNORECASE)
"""The last line of a reply that grades."""

_WORDS = ("Yes", "No")


RUBRIC = (
    "Grade whether the answer is right: {best} if it is right and complete, 0 if it is wrong or no answer to "
    "the question."
)


class JudgeReward(JudgeParameters):
    """Parameters of `judge`."""

    absolute: ClassVar[bool] = True

    rubric: str = Field(
        default=RUBRIC,
        description="What is graded in words, and what the grades mean. {best} stands for the best grade.",
    )
    best: int = Field(default=5, ge=1, le=100, description="The best grade; the worst is 0.")


class _Asked(NamedTuple):
    sample_id: str
    prompt: str
    response: str


@method("reward", JUDGE, parameters=JudgeReward, section="4.3", paper="arXiv:2306.05685")
def judge(context: RewardContext, parameters: JudgeReward) -> pl.DataFrame:
    """A model grades each response by a rubric, several times (kind M).

    Signal: the grade in the last line of each reply (Zheng et al., arXiv:2306.05685, section 3.1). Replies
    in any other form are left out, and with fewer than half of the grades there is no value. The value is
    the mean grade over the best one; the confidence is the share of replies that could be read, times the
    agreement of the grades, 1 - 2 * their standard deviation.

    With `reading: probabilities` the signal is P(yes) to "is the answer right?" (Kadavath et al.,
    arXiv:2207.05221, section 3), with the two words offered in both orders: the value is the mean, the
    confidence 1 - the difference. The judge sees neither the right answer nor what a sampler was shown.
    """
    prompts = context.tasks.select("task_id", "prompt")
    asked = [
        _Asked(*row)
        for row in context.samples.join(prompts, on="task_id", maintain_order="left")
        .select(_Asked._fields)
        .iter_rows()
    ]
    judgements = _graded if parameters.reading == "words" else _probable
    told = {"reward": parameters.name or JUDGE, "kind": "M"}
    rows = zip(asked, judgements(asked, context, parameters), strict=True)
    return frame(({"sample_id": one.sample_id, **told, **row} for one, row in rows), REWARDS)


def grading(seed: int, prompt: str, response: str, rubric: str, best: int) -> Question:
    """What a judge is asked about one response; `{best}` in the rubric stands for the best grade."""
    return question(
        seed,
        "You grade the answer to a question.",
        f"The question:\n{quoted(prompt)}",
        f"The answer to grade:\n{quoted(response)}",
        f"{rubric.replace('{best}', str(best))} Reply with a short reason, and then on a last line of its "
        f"own with the word Grade, a colon and a whole number from 0 to {best}.",
    )


def grade(verdicts: Sequence[Verdict], best: int) -> dict[str, Any]:
    """Value, confidence and evidence of one response from the verdicts on it, grades from 0 to `best`."""
    grades = [int(verdict.said) for verdict in verdicts if verdict.said and int(verdict.said) <= best]
    rejected = [verdict.rejected for verdict in verdicts if not verdict.said]
    rejected += [f"a grade above {best}"] * (len(verdicts) - len(grades) - len(rejected))
    evidence = canonical_json({"grades": grades, "rejected": rejected})
    if 2 * len(grades) < len(verdicts):
        return {"value": None, "confidence": 0.0, "evidence": evidence}
    values = [given / best for given in grades]
    agreement = max(0.0, 1 - 2 * pstdev(values))
    confidence = len(grades) / len(verdicts) * agreement
    return {"value": fmean(values), "confidence": confidence, "evidence": evidence}


def likely(game: str, offered_first: Choice, offered_second: Choice) -> dict[str, Any]:
    """Value, confidence and evidence of one response from the probabilities of Yes and No in both orders.

    `game` is what the two are recorded as, `offered_first` where Yes was named before No.
    """
    read = [read_choice(choice) for choice in (offered_first, offered_second)]
    if rejected := [why for _, why in read if why]:
        return {"value": None, "confidence": 0.0, "evidence": canonical_json({"rejected": rejected})}
    first, second = (probability for probability, _ in read)
    both = {"game": game, "first": float(first > 0.5), "second": float(second > 0.5)}
    return {
        "value": (first + second) / 2,
        "confidence": 1 - abs(first - second),
        "evidence": canonical_json({"yes": [round(first, 6), round(second, 6)], "orders": [both]}),
    }


def _graded(
    asked: Sequence[_Asked], context: RewardContext, parameters: JudgeReward
) -> Iterator[dict[str, Any]]:
    repeats = parameters.repeats
    honest = [one for one in asked if not forges(one.response, GRADE)]
    questions = [
        grading(
            derive_seed(context.seed, JUDGE, one.sample_id, repeat),
            one.prompt,
            one.response,
            parameters.rubric,
            parameters.best,
        )
        for one in honest
        for repeat in range(repeats)
    ]
    label = f"{parameters.name or JUDGE}: grading"
    replies = context.judge(parameters.judge).ask(questions, parameters.sampling, label=label)
    verdicts = iter([read_reply(reply, GRADE) for reply in replies])
    asked_about = {one.sample_id for one in honest}
    for one in asked:
        of_it = islice(verdicts, repeats) if one.sample_id in asked_about else [Verdict(rejected=FORGED)]
        yield grade(list(of_it), parameters.best)


def _probable(
    asked: Sequence[_Asked], context: RewardContext, parameters: JudgeReward
) -> Iterator[dict[str, Any]]:
    def ask(one: _Asked, words: tuple[str, ...]) -> Question:
        return question(
            0,
            f"The question:\n{quoted(one.prompt)}",
            f"The proposed answer:\n{quoted(one.response)}",
            f"Is the proposed answer right? Reply with one word, {' or '.join(words)}.",
        )

    orders = (_WORDS, _WORDS[::-1])
    choices = context.judge(parameters.judge).choose(
        [ask(one, words) for one in asked for words in orders],
        _WORDS,
        label=f"{parameters.name or JUDGE}: yes or no",
    )
    for number, one in enumerate(asked):
        yield likely(one.sample_id, *choices[2 * number : 2 * number + 2])
