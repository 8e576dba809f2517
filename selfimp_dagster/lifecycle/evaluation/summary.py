"""What a finished round says to those who decide about the next: its scores, and signals beside them."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.evaluation.statistics import Interval, wilson


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counted(_Frozen):
    """So many right of so many; `right` is a sum of scores where scores are graded."""

    right: float
    n: int

    @property
    def share(self) -> float:
        return self.right / self.n

    def interval(self, confidence: float = 0.95) -> Interval:
        """The Wilson interval of the share."""
        return wilson(min(self.right, self.n), self.n, confidence)

    @property
    def text(self) -> str:
        return f"{self.right:g} of {self.n}"


class PassRates(_Frozen):
    """Train tasks that the incumbent answered several times: how many it never and always got right."""

    never: int
    always: int
    n: int


class Flips(_Frozen):
    """What refinement did to so many answers of the candidate: made right, made wrong."""

    to_right: int
    to_wrong: int
    n: int


class Change(_Frozen):
    """A difference with its 95 % interval (null: none can be given), and of what, in a sentence."""

    value: float
    low: float | None
    high: float | None
    note: str

    @property
    def is_fall(self) -> bool:
        """Whether it lies below zero with its whole interval."""
        return self.high is not None and self.high < 0


class Signals(_Frozen):
    """What steering looks at. What a round cannot tell is null or empty.

    Of the policy in force: `skills` counts anchor items, `levels` anchor and fresh items by level of
    difficulty. Of the round: `attempted` is the hardest level of its train tasks by skill, `selected`
    counts the selected rows of the policy's own that the tasks' verifiers accept, `skill_change` and
    `guard_change` are the worst changes against the best so far, `sharpening` says whether single draws
    improved while the reach of several shrank, `gain` is the candidate's over the incumbent, and
    `strategy` the recipe that was followed (null: the campaign's own).
    """

    skills: Mapping[str, Counted] = {}
    levels: Mapping[str, Mapping[float, Counted]] = {}
    attempted: Mapping[str, float] = {}
    pass_rates: PassRates | None = None
    selected: Counted | None = None
    refined: Flips | None = None
    skill_change: Change | None = None
    guard_change: Change | None = None
    sharpening: bool = False
    gain: float | None = None
    strategy: str | None = None


class RoundSummary(_Frozen):
    """What the decision may look at: one finished round.

    The accuracies are those of the policy in force after the round: the candidate if it was promoted,
    else the incumbent. `halt` is why a person has to be asked before the next round, `approved` how
    that person approved.
    """

    round: str
    parent: str | None  # the round whose checkpoint this one started from; null for the base model
    promoted: bool
    accuracy: dict[str, float]  # by suite
    per_skill: dict[str, float]
    alarms: tuple[str, ...] = ()
    halt: str | None = None
    approved: str | None = None
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    signals: Signals = Signals()  # reports from before there were any have none
