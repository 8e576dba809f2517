"""What a report says of a campaign, gathered from the artifact store. Nothing here imports dagster.

A part that cannot be read hides no other: `Missing` stands in its place and says why. `None` stands
for a stage that the round has not reached.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar

import polars as pl
from pydantic import ValidationError

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.continuation import Decision
from selfimp_dagster.lifecycle.evaluation.dimensions import falls
from selfimp_dagster.lifecycle.evaluation.environments import sample_episode, summarised
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading
from selfimp_dagster.lifecycle.evaluation.report import (
    EvalReport,
    Score,
    SkillScore,
    read_dimensions,
    read_monitors,
    read_report,
)
from selfimp_dagster.lifecycle.evaluation.scores import item_weights, pair_arms, paired_counts
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.lifecycle.fates import Fate, fates, read_obeyed
from selfimp_dagster.lifecycle.history import FinishedRound, decide_after
from selfimp_dagster.lifecycle.ledger import STAGES, champions
from selfimp_dagster.lifecycle.oversight import (
    Entry,
    Outcome,
    Question,
    Standing,
    outcome_of,
    read_log,
    read_question,
    standing_after,
)
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.lineage.round_tree import change
from selfimp_dagster.records import (
    EPISODES,
    EVALUATIONS,
    REFINEMENTS,
    REWARDS,
    SAMPLES,
    SELECTION,
    TASKS,
    TRAINING,
    TRAINING_CURVE,
)
from selfimp_dagster.registry import find_method
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

SUITES = ("anchor", "fresh", "guard")
ARMS = ("incumbent", "candidate")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

NEWEST = 20
"""The newest rounds are shown with more detail, so that a long campaign stays readable and its file small."""

_CURVE_POINTS = 80
_LENGTH_BINS = 16
_TABLES_IN_MEMORY = 32


@dataclass(frozen=True)
class Detail:
    """How many examples of a kind a round shows, and how many characters of a prompt or response."""

    examples: int
    characters: int


IN_FULL, IN_BRIEF = Detail(4, 600), Detail(1, 160)

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Missing:
    """A part of the report that could not be read: what is wrong, where, and what mends it."""

    what: str
    where: str
    fix: str


Part: TypeAlias = _T | Missing | None


@dataclass(frozen=True)
class SkillShare:
    """What part of a round's work one skill had: shares from 0 to 1 of the mix, of the tasks that were drawn,
    of the responses drawn for them, and of the rows that were selected (null where nothing is selected yet).

    `asked` is what a directive asked for, if there was one.
    """

    skill: str
    mix: float
    asked: float | None
    tasks: float
    responses: float
    selected: float | None


@dataclass(frozen=True)
class SkillRewards:
    """How the incumbent did on its train tasks of one skill, by itself.

    `pass_rate` is the mean reward of its responses; tasks are counted by whether none, some or all of their
    responses got the full reward.
    """

    skill: str
    responses: int
    pass_rate: float
    never: int
    sometimes: int
    always: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of responses: how many are in each bin of `width` tokens from 1 on, right ones and others."""

    width: int
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    quantiles: tuple[float, ...]  # at QUANTILES
    mean: float
    cut_off: float  # share that ended at the token limit


@dataclass(frozen=True)
class CorpusFacts:
    """The corpus of a round. Rewards and lengths are of the responses that the incumbent gave by itself in
    this round: neither with an answer shown nor carried over from an earlier round's refined outputs."""

    tasks: int
    responses: int
    helped: int
    helped_right: int
    carried: int
    verifier_errors: int
    shares: tuple[SkillShare, ...]
    rewards: tuple[SkillRewards, ...]
    lengths: Lengths


@dataclass(frozen=True)
class Step:
    """One step of the selection: what it does, and how many rows reached it and stayed."""

    name: str
    summary: str
    reached: int
    kept: int
    dropped: int


@dataclass(frozen=True)
class Evidence:
    """A row that was dropped because it has or repeats something else, and what that is.

    `other` is the text of the evaluation item or of the row that stays, where it can still be read;
    `matched` the tokens that were found in both, where the step says so.
    """

    sample_id: str
    skill: str
    prompt: str
    response: str
    reason: str
    other_id: str
    other: str | None
    matched: str | None


@dataclass(frozen=True)
class Dropped:
    """How many rows one of the steps that look for copies dropped, with some of them."""

    step: str
    reached: int
    dropped: int
    of_earlier_rounds: int  # copies of rows that an ancestor round kept
    examples: tuple[Evidence, ...]


@dataclass(frozen=True)
class SelectionFacts:
    """The selection of a round."""

    rows: int
    kept: int
    steps: tuple[Step, ...]
    copies: tuple[Dropped, ...]


@dataclass(frozen=True)
class TrainingFacts:
    """The training of a candidate. `curve` holds (step, loss in nats per token), each point the mean of
    `steps_per_point` steps; `origins` how many rows each round's selection gave."""

    method: str
    rows: int
    origins: tuple[tuple[str, int], ...]
    steps: int
    first_loss: float
    final_loss: float
    curve: tuple[tuple[float, float], ...]
    steps_per_point: int


@dataclass(frozen=True)
class Flip:
    """One question with two answers that were judged differently. `id` can be traced."""

    id: str
    suite: str
    skill: str
    prompt: str
    expected: str | None
    before: str
    after: str
    before_score: float
    after_score: float
    note: str


@dataclass(frozen=True)
class Flips:
    """How often an answer turned from wrong to right and back, with examples of both."""

    to_right: int
    to_wrong: int
    now_right: tuple[Flip, ...]
    now_wrong: tuple[Flip, ...]


@dataclass(frozen=True)
class RefinementFacts:
    """What refinement made of the candidate's answers to unseen train tasks."""

    tasks: int
    before: float
    after: float
    accepted: int
    tokens_before: int
    tokens_after: int
    flips: Flips


@dataclass(frozen=True)
class SkillRow:
    """Both arms on one skill of one suite, and the items that the candidate won and lost."""

    suite: str
    skill: str
    incumbent: SkillScore
    candidate: SkillScore
    won: int
    lost: int


@dataclass(frozen=True)
class Answers:
    """The answers of one arm to the round's items."""

    arm: str
    items: int
    mean_tokens: float
    cut_off: int
    empty: int
    verifier_errors: int
    reused: int


@dataclass(frozen=True)
class EvaluationFacts:
    """The evaluation of a round, item by item."""

    skills: tuple[SkillRow, ...]
    answers: tuple[Answers, ...]
    flips: Flips


@dataclass(frozen=True)
class Measured:
    """One row of records.DIMENSIONS."""

    dimension: str
    measure: str
    arm: str
    value: float
    low: float | None
    high: float | None
    n: int
    note: str


@dataclass(frozen=True)
class DimensionFacts:
    """The four dimensions of a round, and what fell beyond its interval, a sentence each."""

    measured: tuple[Measured, ...]
    falls: tuple[str, ...]

    def find(self, measure: str, arm: str) -> Measured | None:
        return next((m for m in self.measured if (m.measure, m.arm) == (measure, arm)), None)


@dataclass(frozen=True)
class Played:
    """The episodes of one arm in one environment; means are over those whose environment did not raise."""

    environment: str
    arm: str
    episodes: int
    outcome: float | None
    process: float | None
    turns: float
    invalid: float | None  # share of the turns
    errors: int


@dataclass(frozen=True)
class EpisodeFacts:
    """What the arms played, and one of the candidate's episodes: who said what. Empty: nothing was."""

    played: tuple[Played, ...] = ()
    id: str = ""
    environment: str = ""
    said: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ArtifactFacts:
    """What identifies one artifact."""

    asset: str
    data_version: str
    config_hash: str
    code_version: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class RoundReport:
    """Everything that is known of one round.

    `changed` is what it changed in its parent's recipe, `outcome` what came of its verdict after people had
    their say, `question` what it asks of them.
    """

    key: RoundKey
    detail: Detail
    start: Policy | Missing
    changed: str
    report: Part[EvalReport]
    outcome: Part[Outcome]
    question: Part[Question]
    decision: Part[Decision]
    fates: Part[tuple[Fate, ...]]
    corpus: Part[CorpusFacts]
    selection: Part[SelectionFacts]
    training: Part[TrainingFacts]
    refinement: Part[RefinementFacts]
    evaluation: Part[EvaluationFacts]
    episodes: Part[EpisodeFacts]
    dimensions: Part[DimensionFacts]
    monitors: Part[tuple[Reading, ...]]
    artifacts: tuple[ArtifactFacts | Missing, ...]
    not_made: tuple[str, ...]  # stages that the round has not reached

    @property
    def finished(self) -> EvalReport | None:
        """The evaluation report, if the round has one that can be read."""
        return self.report if isinstance(self.report, EvalReport) else None

    @property
    def policy(self) -> Policy | None:
        return self.start if isinstance(self.start, Policy) else None

    @property
    def in_force(self) -> str:
        """The arm of a finished round that the next round starts from."""
        return "candidate" if self.status == "promoted" else "incumbent"

    @property
    def status(self) -> str:
        """Of the candidate: promoted, rejected, waiting or refused (by a person); open before it is measured.

        Where it cannot be known what people said, the verdict stands.
        """
        if isinstance(self.outcome, Outcome):
            return self.outcome.status
        if self.finished is None:
            return "open"
        return "promoted" if self.finished.verdict.promoted else "rejected"


@dataclass(frozen=True)
class Change:
    """The accuracy of the base model and of the policy in force now, on one suite.

    `gain` and its interval are of the items that both answered under one harness, `n` of them; null where
    there are none, as in the fresh suite.
    """

    suite: str
    before: Score
    after: Score
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class CampaignReport:
    """A campaign.

    Its rounds in order, how the policy in force changed along the newest round's line, the round whose
    checkpoint is the champion (see `ledger.champions`), what people did and how the campaign stands after
    it, and the machine and packages of the newest evaluation, where it recorded them.
    """

    name: str
    campaign: Campaign | Missing  # as the newest round recorded it
    rounds: tuple[RoundReport, ...]
    line: tuple[RoundKey, ...]
    changes: tuple[Change, ...]
    champion: RoundReport | None
    interventions: tuple[Entry, ...] | Missing
    standing: Standing
    environment: Mapping[str, str]

    @property
    def finished(self) -> tuple[RoundReport, ...]:
        return tuple(r for r in self.rounds if r.finished)

    @property
    def code_versions(self) -> list[str]:
        """The versions of selfimp_dagster that made the artifacts."""
        made = (a for r in self.rounds for a in r.artifacts if isinstance(a, ArtifactFacts))
        return sorted({artifact.code_version for artifact in made})


def gather(store: ArtifactStore, campaign: str) -> CampaignReport:
    """Everything that the store holds of a campaign, as far as it can be read.

    Raises:
        SelfimpError: the store holds no round of it.
    """
    known = sorted({key.campaign for key in store.rounds()})
    if campaign not in known:
        raise SelfimpError(
            "the store has no round of this campaign",
            where=f"campaign {campaign!r} in {store.folder}",
            fix=f"name one of: {', '.join(known)}" if known else "run a round first: selfimp run CAMPAIGN",
        )
    tables, keys = _Tables(store), list(store.rounds(campaign))
    interventions = _read(lambda: read_log(store, campaign), f"the log of {campaign}")
    standing = Standing() if isinstance(interventions, Missing) else standing_after(interventions)
    rounds: dict[str, RoundReport] = {}
    for key in keys:
        detail = IN_FULL if key in keys[-NEWEST:] else IN_BRIEF
        rounds[str(key)] = _Round(tables, key, rounds, standing, detail).gather()
    finished = [r for r in rounds.values() if r.finished and r.policy]
    line = finished[-1].start.line if finished and isinstance(finished[-1].start, Policy) else ()
    starts = [r.start for r in rounds.values()]
    return CampaignReport(
        name=campaign,
        campaign=next(
            (s.campaign for s in reversed(starts) if isinstance(s, Policy)), _first_missing(starts)
        ),
        rounds=tuple(rounds.values()),
        line=line,
        changes=tuple(_changes(tables, [rounds[str(key)] for key in line])),
        champion=next((rounds[key] for key in champions([_in_ledger(r) for r in finished])), None),
        interventions=interventions,
        standing=standing,
        environment=tables.artifact(finished[-1].key, "eval_report").manifest.environment or {}
        if finished
        else {},
    )


def _in_ledger(r: RoundReport) -> dict[str, Any]:
    """What `champions` asks of a round that is finished and whose start is known."""
    assert r.finished is not None
    assert r.policy is not None
    anchor = r.finished.score("anchor", "candidate")
    return {
        "round": str(r.key),
        "parent": r.policy.parent,
        "weights_round": r.policy.weights_round,
        "promoted": r.in_force == "candidate",
        "candidate_anchor": anchor.accuracy if anchor else None,
    }


def _first_missing(parts: Sequence[object]) -> Missing:
    return next((p for p in parts if isinstance(p, Missing)), Missing("no round was started", "", ""))


def _read(part: Callable[[], _T], where: str) -> _T | Missing:
    """The part, or why it cannot be read."""
    try:
        return part()
    except SelfimpError as error:
        return Missing(error.what, error.where, error.fix)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors()[:3])
        return Missing(
            f"it was written by another version of selfimp_dagster; these fields do not fit: {fields}",
            where,
            "read it with the version that wrote it, or materialize it again",
        )


def _known(part: _T | Missing) -> _T:
    """The part.

    Raises:
        SelfimpError: it could not be read.
    """
    if isinstance(part, Missing):
        raise SelfimpError(part.what, where=part.where, fix=part.fix)
    return part


class _Tables:
    """The store's tables. Each file is compared with its hash when it is read, and no other file is: a
    checkpoint whose weights were deleted to free space still has its training curve."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.table = lru_cache(maxsize=_TABLES_IN_MEMORY)(self._table)

    def artifact(self, key: RoundKey, asset: str) -> Artifact:
        return self.store.open(key, asset, verify=False)

    def _table(self, key: RoundKey, asset: str, name: str) -> pl.DataFrame:
        artifact = self.artifact(key, asset)
        artifact.check([f"{name}.parquet"])
        return artifact.table(name, _SCHEMAS[name])


_SCHEMAS = {
    "tasks": TASKS,
    "samples": SAMPLES,
    "rewards": REWARDS,
    "selection": SELECTION,
    "subset": SUBSET,
    "training": TRAINING,
    "training_curve": TRAINING_CURVE,
    "refinements": REFINEMENTS,
    "items": TASKS,
    "evaluations": EVALUATIONS,
    "episodes": EPISODES,
}


class _Round:
    """Gathers one round. `before` are the rounds that were gathered so far."""

    def __init__(
        self,
        tables: _Tables,
        key: RoundKey,
        before: Mapping[str, RoundReport],
        standing: Standing,
        detail: Detail,
    ) -> None:
        self._tables, self._key, self._before = tables, key, before
        self._standing, self._detail = standing, detail
        self._start = _read(lambda: read_policy(tables.store, key)[0], f"{key} incumbent_policy")

    def gather(self) -> RoundReport:
        report = self._part("eval_report", lambda: read_report(self._tables.store, self._key))
        outcome = _read(lambda: self._outcome(report), f"{self._key}") if report else None
        made = {asset: self._tables.store.has(self._key, asset) for asset in STAGES}
        return RoundReport(
            key=self._key,
            detail=self._detail,
            start=self._start,
            changed=self._changed(),
            report=report,
            outcome=outcome,
            question=_read(self._question, f"{self._key}"),
            decision=_read(lambda: self._decision(report, outcome), f"{self._key}") if report else None,
            fates=_read(lambda: self._fates(report, outcome), f"{self._key}"),
            corpus=self._part("generated_corpus", self._corpus),
            selection=self._part("selected_subset", self._selection),
            training=self._part("checkpoint", self._training),
            refinement=self._part("refined_outputs", self._refinement),
            evaluation=self._part("eval_report", self._evaluation),
            episodes=self._part("eval_report", self._episodes),
            dimensions=self._part("eval_report", self._dimensions),
            monitors=self._part("eval_report", lambda: read_monitors(self._tables.store, self._key)),
            artifacts=tuple(self._artifact(asset) for asset in STAGES if made[asset]),
            not_made=tuple(asset for asset in STAGES if not made[asset]),
        )

    def _part(self, asset: str, part: Callable[[], _T]) -> Part[_T]:
        """The part that is read from an artifact; none where the round has not made it yet."""
        if not self._tables.store.has(self._key, asset):
            return None
        return _read(part, f"{self._key} {asset}")

    def _table(self, asset: str, name: str) -> pl.DataFrame:
        return self._tables.table(self._key, asset, name)

    def _facts(self, asset: str) -> dict[str, Any]:
        return self._tables.artifact(self._key, asset).facts

    def _policy(self) -> Policy:
        return _known(self._start)

    def _changed(self) -> str:
        if isinstance(self._start, Missing):
            return ""
        before = self._before.get(self._start.parent or "")
        policies = (self._start, before.policy if before else None)
        row, parent = ({"recipe_changes": json.dumps(p.recipe_changes)} if p else None for p in policies)
        return change(row or {}, parent)

    def _outcome(self, report: EvalReport | Missing) -> Outcome:
        return outcome_of(self._tables.store, _known(report), self._standing)

    def _question(self) -> Question | None:
        return read_question(self._tables.store, self._key, self._standing)

    def _decision(self, report: Part[EvalReport], outcome: Part[Outcome]) -> Decision:
        policy = self._policy()
        parts = [(policy.round, report, outcome)]
        for ancestor in reversed(policy.ancestors):
            r = self._before.get(ancestor)
            parts.insert(0, (ancestor, r.report if r else None, r.outcome if r else None))
        line = []
        for key, reported, came in parts:
            if not isinstance(reported, EvalReport) or not isinstance(came, Outcome):
                raise SelfimpError(
                    f"the decision rests on the evaluation report of {key}, which cannot be read",
                    where=f"{key} eval_report",
                    fix=f"materialize eval_report of {key} again",
                )
            line.append(FinishedRound(reported, came))
        return decide_after(line, policy.campaign)

    def _fates(self, report: Part[EvalReport], outcome: Part[Outcome]) -> tuple[Fate, ...]:
        """What became of the directives of the round, as far as it went."""
        policy = self._policy()
        parent = self._before.get(policy.parent or "")
        return tuple(
            fates(
                policy.directives,
                read_obeyed(self._tables.store, self._key),
                _summary_of(parent.report, parent.outcome) if parent else None,
                _summary_of(report, outcome),
            )
        )

    def _corpus(self) -> CorpusFacts:
        tasks, samples = (self._table("generated_corpus", name) for name in ("tasks", "samples"))
        rewards = self._table("generated_corpus", "rewards").filter(pl.col("reward") == ANSWER)
        judged = samples.join(rewards, on="sample_id").join(
            tasks.select("task_id", "skill"), on="task_id", maintain_order="left"
        )
        own = judged.filter(pl.col("round") == str(self._key))
        alone, helped = unaided(own).drop_nulls("value"), own.filter(pl.col("generation") == "R")
        return CorpusFacts(
            tasks=tasks.height,
            responses=samples.height,
            helped=helped.height,
            helped_right=helped.filter(pl.col("value") >= 1).height,
            carried=judged.height - own.height,
            verifier_errors=rewards.drop_nulls("value").filter(pl.col("confidence") == 0).height,
            shares=tuple(self._shares(alone)),
            rewards=tuple(_rewards(alone)),
            lengths=_lengths(alone),
        )

    def _shares(self, alone: pl.DataFrame) -> Iterator[SkillShare]:
        policy = self._policy()
        directed = (d.weights for d in policy.directives if d.kind == "shift_budget")
        asked = next(directed, None)
        responses = _share_by_skill(alone)
        tasks = _share_by_skill(alone.unique("task_id"))
        selected = None
        if self._tables.store.has(self._key, "selected_subset"):
            selected = _share_by_skill(self._table("selected_subset", "subset"))
        for skill, share in policy.campaign.skill_weights.items():
            yield SkillShare(
                skill=skill,
                mix=share,
                asked=None if asked is None else asked[skill],
                tasks=tasks.get(skill, 0.0),
                responses=responses.get(skill, 0.0),
                selected=None if selected is None else selected.get(skill, 0.0),
            )

    def _selection(self) -> SelectionFacts:
        facts = self._facts("selected_subset")
        steps = tuple(
            Step(row["step"], _summary(row["step"]), row["reached"], row["kept"], row["dropped"])
            for row in facts["funnel"]
        )
        return SelectionFacts(
            rows=facts["rows"],
            kept=facts["kept"],
            steps=steps,
            copies=tuple(
                self._copies(step, field)
                for step in steps
                for name, field in _COPIES.items()
                if step.name == name
            ),
        )

    def _copies(self, step: Step, field: str) -> Dropped:
        """What a step dropped because it is a copy of what `field` of its evidence names."""
        evidence = pl.col("evidence")
        dropped = (
            self._table("selected_subset", "selection")
            .filter((pl.col("step") == step.name) & ~pl.col("kept"))
            .with_columns(
                other=evidence.str.json_path_match(f"$.{field}"),
                other_round=evidence.str.json_path_match("$.round"),
            )
        )
        earlier = dropped.filter(
            pl.col("other_round").is_not_null() & (pl.col("other_round") != str(self._key))
        )
        tasks, samples = (self._table("generated_corpus", name) for name in ("tasks", "samples"))
        shown = _spread(
            dropped.join(tasks.select("task_id", "skill", "prompt"), on="task_id"),
            self._detail.examples,
            "sample_id",
            ("skill",),
        ).join(samples.select("sample_id", "response"), on="sample_id", maintain_order="left")
        return Dropped(
            step=step.name,
            reached=step.reached,
            dropped=step.dropped,
            of_earlier_rounds=earlier.height,
            examples=tuple(self._evidence(row) for row in shown.iter_rows(named=True)),
        )

    def _evidence(self, row: dict[str, Any]) -> Evidence:
        said = json.loads(row["evidence"])
        repeated = row["other_round"]
        other = self._kept_row(repeated, row["other"]) if repeated else self._item(row["other"])
        return Evidence(
            sample_id=row["sample_id"],
            skill=row["skill"],
            prompt=self._shown(row["prompt"]),
            response=self._shown(row["response"]),
            reason=row["reason"],
            other_id=row["other"],
            other=None if other is None else self._shown(other),
            matched=self._shown(said["matched"]) if "matched" in said else None,
        )

    def _kept_row(self, round_: str, sample: str) -> str | None:
        """Prompt and response of the row that stays, which another round may have selected."""
        found = _read(
            lambda: (
                self._tables.table(RoundKey.parse(round_), "selected_subset", "subset").row(
                    by_predicate=pl.col("sample_id") == sample, named=True
                )
                if round_ != str(self._key)
                else self._sampled(sample)
            ),
            round_,
        )
        return None if isinstance(found, Missing) else f"{found['prompt']}\n{found['response']}"

    def _sampled(self, sample: str) -> dict[str, Any]:
        row = self._table("generated_corpus", "samples").filter(pl.col("sample_id") == sample)
        tasks = self._table("generated_corpus", "tasks").select("task_id", "prompt")
        return row.join(tasks, on="task_id").row(0, named=True)

    def _item(self, item: str) -> str | None:
        """The prompt of an evaluation item of this round or of an ancestor, where a report has it."""
        for key in reversed(self._policy().line):
            if self._tables.store.has(key, "eval_report"):
                items = _read(partial(self._tables.table, key, "eval_report", "items"), str(key))
                if isinstance(items, pl.DataFrame):
                    prompts = items.filter(pl.col("task_id") == item)["prompt"]
                    if len(prompts):
                        return str(prompts[0])
        return None

    def _training(self) -> TrainingFacts:
        facts = self._facts("checkpoint")
        curve = self._table("checkpoint", "training_curve")
        origins = (
            self._table("checkpoint", "training").group_by("origin_round").len("rows").sort("origin_round")
        )
        size = -(-curve.height // _CURVE_POINTS)
        points = (
            curve.with_row_index("place")
            .group_by(pl.col("place") // size, maintain_order=True)
            .agg(pl.col("step").mean(), pl.col("loss").mean())
        )
        return TrainingFacts(
            method=facts["method"],
            rows=facts["rows"],
            origins=tuple(origins.iter_rows()),
            steps=facts["steps"],
            first_loss=curve["loss"][0],
            final_loss=facts["final_loss"],
            curve=tuple(points.select("step", "loss").iter_rows()),
            steps_per_point=size,
        )

    def _refinement(self) -> RefinementFacts:
        facts = self._facts("refined_outputs")
        tasks, samples = (self._table("refined_outputs", name) for name in ("tasks", "samples"))
        responses = samples.select("sample_id", "response")
        flips = (
            self._table("refined_outputs", "refinements")
            .filter(pl.col("flip") != "none")
            .join(tasks.select("task_id", "prompt", "answer"), on="task_id")
            .join(
                responses.rename({"sample_id": "before_sample_id", "response": "before"}),
                on="before_sample_id",
            )
            .join(
                responses.rename({"sample_id": "after_sample_id", "response": "after"}), on="after_sample_id"
            )
            .select(
                pl.col("task_id").alias("id"),
                pl.lit("train").alias("suite"),
                "skill",
                "prompt",
                "answer",
                "before",
                "after",
                "before_score",
                "after_score",
                pl.format("{}\u00a0% of the votes", (pl.col("agreement") * 100).round().cast(pl.Int64)).alias(
                    "note"
                ),
            )
        )
        return RefinementFacts(
            tasks=facts["tasks"],
            before=facts["accuracy_before"],
            after=facts["accuracy_after"],
            accepted=facts["accepted"],
            tokens_before=facts["tokens_before"],
            tokens_after=facts["tokens_after"],
            flips=self._flips(flips),
        )

    def _evaluation(self) -> EvaluationFacts:
        evaluations = self._table("eval_report", "evaluations")
        items = self._table("eval_report", "items").select(
            pl.col("task_id").alias("item_id"), pl.col("pool").alias("suite"), "prompt", "answer"
        )
        pairs = pair_arms(evaluations)
        place = ["suite", "item_id"]
        said = [
            evaluations.filter(pl.col("arm") == arm).select(*place, pl.col("response").alias(name))
            for arm, name in (("incumbent", "before_response"), ("candidate", "after_response"))
        ]
        flips = (
            pairs.filter(pl.col("before") != pl.col("after"))
            .join(items, on=place)
            .join(said[0], on=place)
            .join(said[1], on=place)
            .select(
                pl.col("item_id").alias("id"),
                "suite",
                "skill",
                "prompt",
                "answer",
                pl.col("before_response").alias("before"),
                pl.col("after_response").alias("after"),
                pl.col("before").alias("before_score"),
                pl.col("after").alias("after_score"),
                pl.lit("").alias("note"),
            )
        )
        report = read_report(self._tables.store, self._key)
        return EvaluationFacts(
            skills=tuple(_skill_rows(report, pairs)),
            answers=tuple(_answers(evaluations)),
            flips=self._flips(flips),
        )

    def _episodes(self) -> EpisodeFacts:
        if not self._tables.artifact(self._key, "eval_report").has_table("episodes"):
            return EpisodeFacts()
        episodes = self._table("eval_report", "episodes")
        shown = sample_episode(episodes)
        if shown is None:
            return EpisodeFacts()
        speaker = {"user": shown["environment"], "assistant": shown["arm"]}
        return EpisodeFacts(
            played=tuple(Played(**row) for row in summarised(episodes).iter_rows(named=True)),
            id=shown["episode_id"],
            environment=shown["environment"],
            said=tuple(
                (speaker[message["role"]], self._shown(message["content"])) for message in shown["messages"]
            ),
        )

    def _dimensions(self) -> DimensionFacts:
        rows = read_dimensions(self._tables.store, self._key)
        return DimensionFacts(
            measured=tuple(Measured(**row) for row in rows.iter_rows(named=True)), falls=tuple(falls(rows))
        )

    def _flips(self, flips: pl.DataFrame) -> Flips:
        """From rows with the columns of Flip, `expected` as `answer`."""
        rose = pl.col("after_score") > pl.col("before_score")
        better, worse = flips.filter(rose), flips.filter(~rose)
        return Flips(
            to_right=better.height,
            to_wrong=worse.height,
            now_right=self._flip_examples(better),
            now_wrong=self._flip_examples(worse),
        )

    def _flip_examples(self, rows: pl.DataFrame) -> tuple[Flip, ...]:
        return tuple(
            Flip(
                id=row["id"],
                suite=row["suite"],
                skill=row["skill"],
                prompt=self._shown(row["prompt"]),
                expected=None if row["answer"] is None else self._shown(row["answer"]),
                before=self._shown(row["before"]),
                after=self._shown(row["after"]),
                before_score=row["before_score"],
                after_score=row["after_score"],
                note=row["note"],
            )
            for row in _spread(rows, self._detail.examples, "id", ("suite", "skill")).iter_rows(named=True)
        )

    def _shown(self, text: str) -> str:
        """A text of a model or a task file, not too long, and with what would be invisible or would turn the
        text around it written out."""
        more = len(text) - self._detail.characters
        shown = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text[: self._detail.characters])
        return shown if more <= 0 else f"{shown}… ({more:,} more characters)"

    def _artifact(self, asset: str) -> ArtifactFacts | Missing:
        found = _read(lambda: self._tables.artifact(self._key, asset).manifest, f"{self._key} {asset}")
        if isinstance(found, Missing):
            return found
        return ArtifactFacts(
            asset=asset,
            data_version=found.data_version,
            config_hash=found.config_hash,
            code_version=found.code_version,
            inputs=tuple(found.parents),
        )


_COPIES = {
    "decontamination": "item_id",
    "exact_duplicates": "duplicate_of",
    "near_duplicates": "duplicate_of",
}
"""The steps that drop copies, and the field of their evidence that names the original."""


def _spread(rows: pl.DataFrame, size: int, id_: str, groups: tuple[str, ...]) -> pl.DataFrame:
    """That many rows, the same every time, from as many groups as there are. Ids are hashes: their order
    favours nothing."""
    return (
        rows.with_columns(turn=pl.col(id_).rank("ordinal").over(*groups))
        .sort("turn", *groups, id_)
        .head(size)
        .drop("turn")
    )


def _summary_of(report: Part[EvalReport], outcome: Part[Outcome]) -> RoundSummary | None:
    """The summary of a round whose report and outcome can be read."""
    if isinstance(report, EvalReport) and isinstance(outcome, Outcome):
        return FinishedRound(report, outcome).summary
    return None


def _summary(step: str) -> str:
    """What a step does, in its own words; nothing where this version has no such step."""
    found = _read(lambda: find_method("selection", step).summary, step)
    return "" if isinstance(found, Missing) else found


def _share_by_skill(rows: pl.DataFrame) -> dict[str, float]:
    return {skill: count / rows.height for skill, count in rows.group_by("skill").len().iter_rows()}


def _rewards(alone: pl.DataFrame) -> Iterator[SkillRewards]:
    by_task = alone.group_by("skill", "task_id").agg(
        never=(pl.col("value") < 1).all(), always=(pl.col("value") >= 1).all()
    )
    for (skill,), rows in sorted(alone.partition_by("skill", as_dict=True).items()):
        tasks = by_task.filter(pl.col("skill") == skill)
        never, always = int(tasks["never"].sum()), int(tasks["always"].sum())
        yield SkillRewards(
            skill=str(skill),
            responses=rows.height,
            pass_rate=float(rows["value"].sum() / rows.height),
            never=never,
            sometimes=tasks.height - never - always,
            always=always,
        )


def _lengths(alone: pl.DataFrame) -> Lengths:
    tokens, right = alone["completion_tokens"], alone["value"] >= 1
    width = -(-max(int(tokens.max() or 1), 1) // _LENGTH_BINS)  # type: ignore[arg-type]
    bins = (tokens.clip(lower_bound=1) - 1) // width
    count = int(bins.max() or 0) + 1  # type: ignore[arg-type]

    def counts(chosen: pl.Series) -> tuple[int, ...]:
        found = dict(bins.filter(chosen).value_counts().iter_rows())
        return tuple(found.get(place, 0) for place in range(count))

    return Lengths(
        width=width,
        right=counts(right),
        wrong=counts(~right),
        quantiles=tuple(tokens.quantile(q, "linear") or 0.0 for q in QUANTILES),
        mean=float(tokens.sum() / max(tokens.len(), 1)),
        cut_off=alone.filter(pl.col("finish_reason") == "length").height / max(tokens.len(), 1),
    )


def _skill_rows(report: EvalReport, pairs: pl.DataFrame) -> Iterator[SkillRow]:
    scores = {(s.suite, s.skill, s.arm): s for s in report.skills}
    places = sorted({(s.suite, s.skill) for s in report.skills}, key=lambda p: (SUITES.index(p[0]), p[1]))
    for suite, skill in places:
        won, lost, _ = paired_counts(pairs.filter((pl.col("suite") == suite) & (pl.col("skill") == skill)))
        yield SkillRow(
            suite, skill, scores[suite, skill, "incumbent"], scores[suite, skill, "candidate"], won, lost
        )


def _answers(evaluations: pl.DataFrame) -> Iterator[Answers]:
    for arm in ARMS:
        mine = evaluations.filter(pl.col("arm") == arm)
        flags = {
            flag: mine.filter(pl.col("flags").list.contains(flag)).height
            for flag in ("truncated", "empty", "verifier_error")
        }
        yield Answers(
            arm=arm,
            items=mine.height,
            mean_tokens=float(mine["completion_tokens"].sum() / mine.height),
            cut_off=flags["truncated"],
            empty=flags["empty"],
            verifier_errors=flags["verifier_error"],
            reused=int(mine["reused"].sum()),
        )


def _changes(tables: _Tables, line: Sequence[RoundReport]) -> Iterator[Change]:
    """The base model against what is in force after the last round of a line, suite by suite."""
    if not line or line[0].finished is None or line[-1].finished is None:
        return
    for suite in SUITES:
        before = line[0].finished.score(suite, "incumbent")
        after = line[-1].finished.score(suite, line[-1].in_force)
        if before is None or after is None:
            continue
        paired = None
        if suite != "fresh":  # whose items are others in every round
            paired = _read(partial(_paired, tables, line[0], line[-1], suite), suite)
        if paired is None or isinstance(paired, Missing):
            yield Change(suite, before, after)
        else:
            yield Change(suite, before, after, *paired)


def _paired(
    tables: _Tables, first: RoundReport, last: RoundReport, suite: str
) -> tuple[float, float, float, int] | None:
    """Gain, its 95 % interval, and the number of items that both answered."""
    answers = [
        tables.table(r.key, "eval_report", "evaluations")
        .filter((pl.col("arm") == arm) & (pl.col("suite") == suite))
        .with_columns(arm=pl.lit(name))
        for r, arm, name in ((first, "incumbent", "before"), (last, last.in_force, "after"))
    ]
    shared = pl.concat(answers).filter(pl.len().over("item_id") == 2)
    if shared.is_empty() or last.policy is None:
        return None
    pairs = pair_arms(shared, "before", "after")
    skills = pairs["skill"].to_list()
    mix = dict.fromkeys(skills, 1.0) if suite == "guard" else last.policy.campaign.skill_weights
    weights = item_weights(skills, mix)
    differences = (pairs["after"] - pairs["before"]).to_numpy()
    interval = paired_difference_interval(differences, weights=weights)
    return float(differences @ weights), interval.low, interval.high, pairs.height
