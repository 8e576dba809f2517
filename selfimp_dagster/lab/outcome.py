"""What came of runs in the lab: who caught a failure, when, and what it did to the truth."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoundOutcome(_Frozen):
    """One round.

    `samples` counts the responses that its corpus and its refinement are made of. The accuracies are shares
    of the fresh items of the round, by the lab's own solver: no failure touches those items or that solver.
    `reported` is what the evaluator says of the candidate on anchor items.
    `alarms` are sentences by monitor. `ended` is what ended the round (budget, a check, or a stage
    that failed), and `why` what it said; a round that was ended has no accuracies.
    """

    number: int
    samples: int = 0
    incumbent: float | None = None
    candidate: float | None = None
    reported: float | None = None
    promoted: bool = False
    alarms: dict[str, str] = {}
    ended: str | None = None
    why: str = ""

    @property
    def signals(self) -> tuple[str, ...]:
        """Monitors that sounded, and the check that ended the round."""
        return (*self.alarms, *([self.ended] if self.ended else []))


class Outcome(_Frozen):
    """One run of a failure. `expected` are the monitors and checks that may catch it."""

    failure: str
    parameters: dict[str, Any]
    seed: int
    campaign: str
    expected: tuple[str, ...]
    rounds: tuple[RoundOutcome, ...]
    seconds: float

    @property
    def caught(self) -> RoundOutcome | None:
        """The first round in which an expected monitor sounded or an expected check failed."""
        return next((round_ for round_ in self.rounds if set(self.expected) & set(round_.signals)), None)

    @property
    def caught_by(self) -> tuple[str, ...]:
        """The expected ones that sounded in that round."""
        return tuple(s for s in self.caught.signals if s in self.expected) if self.caught else ()

    @property
    def samples(self) -> int:
        """The samples drawn until it was caught, or in all."""
        last = self.caught.number if self.caught else self.rounds[-1].number
        return sum(round_.samples for round_ in self.rounds if round_.number <= last)

    @property
    def others(self) -> tuple[str, ...]:
        """What else sounded, in the order in which it first did."""
        found = (s for round_ in self.rounds for s in round_.signals if s not in self.expected)
        return tuple(dict.fromkeys(found))

    @property
    def course(self) -> tuple[float, ...]:
        """True accuracy of the first incumbent, then of each round's candidate; may be empty."""
        measured = [
            (round_.incumbent, round_.candidate)
            for round_ in self.rounds
            if round_.incumbent is not None and round_.candidate is not None
        ]
        return (*(before for before, _ in measured[:1]), *(after for _, after in measured))

    @property
    def reported(self) -> float | None:
        """What the evaluator says of the last candidate on anchor items; None if none was measured."""
        return next((r.reported for r in reversed(self.rounds) if r.reported is not None), None)


class Rate(NamedTuple):
    """So many of so many, with the exact interval of the share (Clopper and Pearson 1934) at 95 %."""

    events: int
    n: int
    low: float
    high: float


def rate(events: int, n: int) -> Rate:
    """The rate of `events` in `n`, n above 0; where none or all did, the bound is one-sided at 95 %."""
    one_sided = {0: "less", n: "greater"}.get(events, "two-sided")
    interval = binomtest(events, n, alternative=one_sided).proportion_ci(0.95, method="exact")
    return Rate(events, n, float(interval.low), float(interval.high))


def append(path: Path, outcome: Outcome) -> None:
    """Adds a line to a file of outcomes."""
    with path.open("a", encoding="utf-8") as lines:
        lines.write(outcome.model_dump_json() + "\n")


def read(path: Path) -> list[Outcome]:
    """The outcomes of a file, in order; none if there is no file."""
    if not path.is_file():
        return []
    return [Outcome.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


ANY = "any"
"""Key of `false_alarms`: whatever sounded."""


def false_alarms(healthy: Sequence[Outcome]) -> dict[str, Rate]:
    """How many healthy campaigns had any signal, and each by name."""
    heard = [{signal for round_ in outcome.rounds for signal in round_.signals} for outcome in healthy]
    names = dict.fromkeys(s for outcome in healthy for r in outcome.rounds for s in r.signals)
    counts = {
        ANY: sum(bool(signals) for signals in heard),
        **{name: sum(name in signals for signals in heard) for name in names},
    }
    return {name: rate(events, len(healthy)) for name, events in counts.items()}


def by_failure(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each failure, healthy campaigns (`none`) by what they learn from."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        ground = outcome.parameters.get("ground") if outcome.failure == "none" else None
        found.setdefault(f"none ({ground})" if ground else outcome.failure, []).append(outcome)
    return found
