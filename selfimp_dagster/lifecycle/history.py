"""What earlier rounds came to: the only thing that decisions about the next round may look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle.evaluation.continuation import Decision, decide
from selfimp_dagster.lifecycle.evaluation.report import EvalReport, level_counts, read_report, skill_counts
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.lifecycle.oversight import Outcome, Standing, outcome_of, read_standing
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore


@dataclass(frozen=True)
class FinishedRound:
    """What a round reported, and what came of it after people had their say."""

    report: EvalReport
    outcome: Outcome

    @cached_property  # the decision on every later round of the line asks for it again
    def summary(self) -> RoundSummary:
        """The report's summary, with the policy that is in force and the alarms that still stop."""
        arm = "candidate" if self.outcome.promoted else "incumbent"
        skills = (s for s in self.report.skills if (s.arm, s.suite) == (arm, "anchor"))
        of_arm = {
            "skills": skill_counts(self.report.skills, arm),
            "levels": level_counts(self.report.levels, arm),
        }
        return self.report.summary.model_copy(
            update={
                "promoted": self.outcome.promoted,
                "accuracy": {s.suite: s.accuracy for s in self.report.scores if s.arm == arm},
                "per_skill": {s.skill: s.accuracy for s in skills},
                "alarms": self.outcome.alarms,
                "approved": self.outcome.approved,
                "signals": self.report.summary.signals.model_copy(update=of_arm),
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


def decide_after(line: Sequence[FinishedRound], campaign: Campaign) -> Decision:
    """Whether a round starts after these, unless a person has to approve something of the last one first.

    Args:
        line: a round with its ancestors, from the first round on; empty before a first round.
        campaign: as it stands now, or as the last round of the line recorded it.
    """
    obstacle = line[-1].outcome.obstacle if line else None
    if obstacle is not None:
        return Decision(proceed=False, reason=obstacle)
    return decide_for([finished.summary for finished in line], campaign)


def decide_for(history: Sequence[RoundSummary], campaign: Campaign) -> Decision:
    """The decision on the round after these, by the campaign's own plan and steering."""
    return decide(
        history, campaign.continuation, campaign.skill_weights, campaign.steering, tuple(campaign.strategies)
    )
