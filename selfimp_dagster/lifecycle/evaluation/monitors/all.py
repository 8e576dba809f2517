"""All monitors of a round, one reading each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.collapse import collapse, real_data
from selfimp_dagster.lifecycle.evaluation.monitors.consensus import labelled_tasks, wrong_consensus
from selfimp_dagster.lifecycle.evaluation.monitors.forgetting import forgetting
from selfimp_dagster.lifecycle.evaluation.monitors.leakage import contamination, leakage, memorisation
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading
from selfimp_dagster.lifecycle.evaluation.monitors.refinement import harmful_refinement
from selfimp_dagster.lifecycle.evaluation.monitors.rewards import (
    JudgeTables,
    judge_bias,
    judge_errors,
    reward_hacking,
    verifier_errors,
)
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.monitors.tampering import Evaluator, Rejudged, tampering
from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.summary import Flips
from selfimp_dagster.lifecycle.rewards.answer import ANSWER


@dataclass(frozen=True)
class MonitorEvidence:
    """What the monitors of a round look at.

    Mappings are by round of the line, in order, this one's last: `evaluations` (records.EVALUATIONS),
    `watched` (WATCHED), `rewarded` (REWARDED), `judges`; of the rounds that have them. `twins`
    (TWINS) likewise. `flips`: number of each round and what refinement did there. Of this round: `tasks`,
    `selection` and `training` (TASKS, SELECTION, TRAINING), `items` (TASKS), what the verifier did on the
    `probe`, the `evaluator` now and in the round before, and stored verdicts that were given again. Of the
    campaign: whether the recipe sees the truth (`verified`), which of its rewards can be hacked and which
    verify besides the tasks' verifiers, whether it has guard skills, which monitors share the round's error
    (see `sharing`), and its mix.
    """

    round: str
    number: int
    evaluations: Mapping[str, pl.DataFrame]
    watched: Mapping[str, pl.DataFrame]
    rewarded: Mapping[str, pl.DataFrame]
    judges: Mapping[str, JudgeTables]
    twins: Sequence[pl.DataFrame]
    flips: Sequence[tuple[int, Flips | None]]
    tasks: pl.DataFrame
    selection: pl.DataFrame
    training: pl.DataFrame
    items: pl.DataFrame
    probe: Probe
    evaluator: Evaluator
    evaluator_before: Evaluator | None
    rejudged: Rejudged
    verified: bool
    hackable: Sequence[str]
    verifiers: Sequence[str]
    guarded: bool
    sharing: Sequence[str]
    skill_weights: Mapping[str, float]


def all_readings(evidence: MonitorEvidence, rule: MonitorRule, rounds: int | None) -> tuple[Reading, ...]:
    """What every monitor says of the round, in the order of MONITORS, without that of the budget.

    What a round cost is no part of its content, so `budget` is read when a report is read.

    Args:
        evidence: of the round and its line.
        rule: the campaign's section `monitors`.
        rounds: the rounds of the campaign's plan; None: an open-ended campaign.
    """
    level = rule.level_of_round(rounds, evidence.number, len(evidence.sharing))
    corpus = evidence.judges[evidence.round]
    answers = corpus.rewards.filter(pl.col("reward") == ANSWER)
    labelled = (
        None
        if evidence.verified
        else labelled_tasks(evidence.training, corpus.samples, answers, evidence.round)
    )
    last = evidence.evaluations[evidence.round]
    return (
        collapse(evidence.watched, evidence.evaluations, rule, level),
        real_data(
            evidence.training,
            corpus.samples,
            evidence.round,
            len(evidence.evaluations) > 1,
            evidence.verified,
            rule.real_data_floor,
        ),
        wrong_consensus(evidence.watched, labelled, rule, level),
        reward_hacking(evidence.rewarded, evidence.hackable, rule, level),
        verifier_errors(evidence.probe, rule, level),
        judge_errors(evidence.judges, evidence.verifiers, ANSWER, rule, level),
        judge_bias(corpus, ANSWER, rule, level),
        harmful_refinement(evidence.flips, rounds, rule),
        forgetting(evidence.evaluations, evidence.guarded, rule, level),
        leakage(last, evidence.skill_weights, rule, level),
        memorisation(evidence.twins, evidence.skill_weights, rule, level),
        contamination(evidence.tasks, evidence.selection, evidence.items, rule, level),
        tampering(evidence.evaluator, evidence.evaluator_before, evidence.rejudged),
    )
