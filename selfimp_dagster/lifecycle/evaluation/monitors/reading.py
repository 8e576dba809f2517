"""What a monitor says of a round, and the one list of all monitors."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.records import MONITORS as MONITORS_SCHEMA
from selfimp_dagster.records import frame

State = Literal["quiet", "alarm", "not measured", "not applicable"]
"""quiet: measured, and no alarm. not measured: the evidence is missing or too little, which is no all-clear.
not applicable: the campaign has nothing that could fail so."""

Follows = Literal["warn", "reject", "stop", "quarantine"]
"""What an alarm does, each more than the one before. warn: it is shown. reject: the candidate is not
promoted. stop: nor does a next round start by itself. quarantine: nobody can start one before a person has
answered, and no later round trains on what the round made."""


class Kind(NamedTuple):
    """A monitor: what it looks at, the statistic, what follows from its alarm, and what a person can do.

    `tested`: it can sound by chance, and has a share of the campaign's error.
    """

    evidence: str
    statistic: str
    follows: Follows
    action: str
    tested: bool


MONITORS: Mapping[str, Kind] = {
    "collapse": Kind(
        "several draws for watched items, by the candidate and by every incumbent so far; anchor items",
        "entropy, different responses and pass@k against an incumbent, where accuracy is not above its; "
        "accuracy against an incumbent before the one in force",
        "reject",
        "accumulate data instead of replacing it, replay more, sample at a higher temperature",
        True,
    ),
    "real_data": Kind(
        "what the candidate was trained on",
        "share of the rows that are demonstrations, verified, or of earlier rounds",
        "warn",
        "add demonstrations or a verifier, or replay rows of earlier rounds",
        False,
    ),
    "wrong_consensus": Kind(
        "several draws for watched items, by the candidate and by every incumbent so far",
        "accuracy of the majority vote against an incumbent, where agreement did not fall; where votes are "
        "the labels, accuracy of those that most draws agree on",
        "reject",
        "raise the least confidence of votes, replay labelled rows, or add a verifier",
        True,
    ),
    "reward_hacking": Kind(
        "the recipe's rewards for the answers to train tasks, the same in every round, beside the verifier",
        "rise of a reward less the rise of accuracy, against every incumbent so far",
        "reject",
        "read the samples that the reward accepts and the verifier does not; repair or drop the reward",
        True,
    ),
    "verifier_errors": Kind(
        "the verifier on right and corrupted answers to evaluation items",
        "precision and recall against monitors.verifier_floor",
        "stop",
        "repair the verifier; if its tasks have several right answers, lower monitors.verifier_floor",
        True,
    ),
    "judge_errors": Kind(
        "each judge, and each further verifier of the recipe, against the truth",
        "precision of a judge on the gold probe against its floor and against every round so far; agreement "
        "of a verifier with the tasks' own against monitors.verifier_floor",
        "warn",
        "choose another judge, or require verification",
        True,
    ),
    "judge_bias": Kind(
        "comparisons that a judge made in both orders; wrong samples beside corrupted answers",
        "share of comparisons that follow the position; how much rather a judge accepts wrong answers of the "
        "policy than corrupted ones",
        "warn",
        "choose another judge, of another family than the policy",
        True,
    ),
    "harmful_refinement": Kind(
        "answers before and after refinement, of all rounds of the line",
        "e-value of right answers made wrong against wrong ones made right",
        "warn",
        "stop refining, or choose another method of refinement",
        True,
    ),
    "forgetting": Kind(
        "guard items, answered by the candidate and by every incumbent so far",
        "fall of a guard skill against any of them",
        "reject",
        "replay rows of the skill, take smaller steps",
        True,
    ),
    "leakage": Kind(
        "anchor items, which stay, and fresh items",
        "accuracy on anchor minus fresh items against monitors.leakage_gap",
        "stop",
        "look for anchor items in the training data, and draw the anchor anew",
        True,
    ),
    "memorisation": Kind(
        "anchor items and their twins",
        "rise of accuracy on items minus twins over the line's first incumbent, against "
        "monitors.memorisation_rise",
        "stop",
        "look for anchor items in the training data, and draw the anchor anew",
        True,
    ),
    "contamination": Kind(
        "tasks of the corpus, their answers, and what decontamination found in its samples",
        "tasks with the prompt of an item; share of tasks that quote one against "
        "monitors.contamination_floor; answers of anchor items that tasks have too, against fresh ones",
        "stop",
        "find out where the rows come from; they were dropped, those of earlier rounds may not have been",
        True,
    ),
    "tampering": Kind(
        "code of the evaluator, its items, answers with known verdicts, and stored verdicts given again",
        "differences from the round before; verdicts that are not what they must be",
        "quarantine",
        "find out who changed what; approve if it was meant, and read the scores of both rounds apart",
        False,
    ),
    "budget": Kind(
        "tokens and seconds of the line",
        "spent over budget",
        "warn",
        "raise continuation.budget or let the campaign end",
        False,
    ),
}
"""Every monitor, in the order in which they are shown."""


class Reading(BaseModel):
    """What one monitor says of one round.

    An alarm sounds if the interval from `low` to `high` of `value` lies wholly beyond `threshold`. `level`
    is the chance of a false alarm in this round at most; None where chance plays no part. `n` counts what
    `value` is over.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    monitor: str
    state: State
    follows: Follows
    sentence: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    level: float | None = None
    n: int = 0

    @property
    def action(self) -> str:
        """What a person can do."""
        return MONITORS[self.monitor].action

    @property
    def is_alarm(self) -> bool:
        return self.state == "alarm"


def unmeasured(monitor: str, why: str) -> Reading:
    """The reading of a monitor whose evidence is missing or too little."""
    return Reading(
        monitor=monitor,
        state="not measured",
        follows=MONITORS[monitor].follows,
        sentence=f"Not measured: {why}.",
    )


def inapplicable(monitor: str, why: str) -> Reading:
    """The reading of a monitor in a campaign that has nothing which could fail so."""
    return Reading(
        monitor=monitor,
        state="not applicable",
        follows=MONITORS[monitor].follows,
        sentence=f"Not applicable: {why}.",
    )


def alarms_told(readings: Iterable[Reading]) -> str:
    """The alarms that sound, a paragraph each: what was measured, what follows, what a person can do."""
    found = [
        f"{reading.monitor} ({reading.follows}): {reading.sentence} What to do: {reading.action}."
        for reading in readings
        if reading.is_alarm
    ]
    return "\n\n".join(found) or "No alarm sounds."


def readings_frame(readings: Iterable[Reading]) -> pl.DataFrame:
    """The readings as rows of records.MONITORS."""
    return frame(
        ({**reading.model_dump(), "action": reading.action} for reading in readings), MONITORS_SCHEMA
    )


def readings_of(table: pl.DataFrame) -> tuple[Reading, ...]:
    """The rows of records.MONITORS as readings."""
    return tuple(Reading.model_validate(row) for row in table.drop("action").iter_rows(named=True))
