"""What earlier rounds came to: the only thing that decisions about the next round may look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfimp_dagster.lifecycle.evaluation.continuation import Continuation, Decision, RoundSummary, decide
from selfimp_dagster.lifecycle.evaluation.report import EvalReport, read_report
from selfimp_dagster.lifecycle.oversight import Outcome, Standing, outcome_of, read_standing
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore


@dataclass(frozen=True)
class FinishedRound:
    """What a round reported, and what came of it after people had their say."""

    report: EvalReport
    outcome: Outcome

    @property
    def summary(self) -> RoundSummary:
        """The report's summary, with the policy that is in force and the alarms that still stop."""
        arm = "candidate" if self.outcome.promoted else "incumbent"
        skills = (s for s in self.report.skills if (s.arm, s.suite) == (arm, "anchor"))
        return self.report.summary.model_copy(
            update={
                "promoted": self.outcome.promoted,
                "accuracy": {s.suite: s.accuracy for s in self.report.scores if s.arm == arm},
                "per_skill": {s.skill: s.accuracy for s in skills},
                "alarms": self.outcome.alarms,
            }
        )


def read_finished(store: ArtifactStore, key: RoundKey, standing: Standing) -> FinishedRound:
    """A round that has an evaluation report; `standing` is that of its campaign.

    Raises:
        SelfimpError: an artifact was altered.
    """
    report = read_report(store, key)
    return FinishedRound(report, outcome_of(store, report, standing))


def finished_rounds(store: ArtifactStore, keys: Sequence[RoundKey]) -> list[FinishedRound]:
    """Finished rounds of one campaign, in the order of the keys.

    Raises:
        SelfimpError: an artifact or the campaign's log was altered.
    """
    if not keys:
        return []
    standing = read_standing(store, keys[0].campaign)
    return [read_finished(store, key, standing) for key in keys]


def read_history(store: ArtifactStore, keys: Sequence[RoundKey]) -> list[RoundSummary]:
    """The summaries of rounds that have an evaluation report, in the order of the keys."""
    return [finished.summary for finished in finished_rounds(store, keys)]


def decide_after(line: Sequence[FinishedRound], plan: Continuation, skills: Mapping[str, float]) -> Decision:
    """Whether a round starts after these, unless a person has to approve something of the last one first.

    Args:
        line: a round with its ancestors, from the first round on; empty before a first round.
        plan: the campaign's continuation.
        skills: the campaign's mix, skill to base weight.
    """
    obstacle = line[-1].outcome.obstacle if line else None
    if obstacle is not None:
        return Decision(proceed=False, reason=obstacle)
    return decide([finished.summary for finished in line], plan, skills)
