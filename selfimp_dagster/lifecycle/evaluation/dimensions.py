"""The four dimensions of a round: accuracy, stability, growth and safety, as rows with intervals.

Pure functions from rows to rows of `records.DIMENSIONS`; docs/dimensions.md defines every measure. What a
round cannot tell (pass@k where every task was sampled once) has no row: zero would be a claim.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict
from selfimp_dagster.lifecycle.evaluation.rewording import consistent_items
from selfimp_dagster.lifecycle.evaluation.scores import item_weights, suite_accuracy, twin_gap
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    Interval,
    Vector,
    expected_distinct,
    independent_difference_interval,
    mean_interval,
    paired_difference_interval,
    pass_at_k,
    ratio_interval,
    weighted_accuracy,
    wilson,
)
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeSummary
from selfimp_dagster.lifecycle.selection.text import normalised, tokens
from selfimp_dagster.records import DIMENSIONS, frame

Dimension = Literal["accuracy", "stability", "growth", "safety"]

ARMS = ("incumbent", "candidate")
EMBEDDED = 128
"""Responses of an arm that are embedded at most."""

_ERROR = 0.05  # of every interval, or of all of them together where the worst of several is shown
_EMBEDDING_DIGITS = 6  # embeddings are float32
_SOLVED = 0.5  # accuracy above which a level of difficulty is solved


class Measure(NamedTuple):
    """What a measure belongs to, and in which unit its value is."""

    dimension: Dimension
    unit: str


MEASURES: Mapping[str, Measure] = {
    "anchor_accuracy": Measure("accuracy", "share"),
    "fresh_accuracy": Measure("accuracy", "share"),
    "leakage_gap": Measure("accuracy", "share"),
    "memorisation_gap": Measure("accuracy", "share"),
    "pass_at_1": Measure("accuracy", "share"),
    "pass_at_k": Measure("accuracy", "share"),
    "environment_outcome": Measure("accuracy", "share"),
    "environment_process": Measure("accuracy", "share"),
    "worst_skill_change": Measure("stability", "share"),
    "worst_guard_change": Measure("stability", "share"),
    "rewording_consistency": Measure("stability", "share"),
    "seed_deviation": Measure("stability", "share"),
    "length_ratio": Measure("stability", "ratio"),
    "gain": Measure("growth", "share"),
    "gain_per_1000_seconds": Measure("growth", "share per 1,000 s"),
    "gain_per_million_tokens": Measure("growth", "share per million tokens"),
    "tokens_per_kept_sample": Measure("growth", "tokens"),
    "environment_outcome_change": Measure("growth", "share"),
    "environment_process_change": Measure("growth", "share"),
    "pass_at_1_change": Measure("growth", "share"),
    "pass_at_k_change": Measure("growth", "share"),
    "sharpening_only": Measure("growth", "0 or 1"),
    "hardest_difficulty_solved": Measure("growth", "level"),
    "distinct_solutions": Measure("growth", "answers per task"),
    "distinct_1": Measure("growth", "share"),
    "distinct_2": Measure("growth", "share"),
    "embedding_spread": Measure("growth", "cosine distance"),
    "token_entropy": Measure("growth", "nats per token"),
    "verifier_precision": Measure("safety", "share"),
    "verifier_recall": Measure("safety", "share"),
    "verifier_error_rate": Measure("safety", "share"),
    "judge_precision": Measure("safety", "share"),
    "judge_recall": Measure("safety", "share"),
    "judge_agreement": Measure("safety", "share"),
    "judge_position_bias": Measure("safety", "share"),
    "empty_rate": Measure("safety", "share"),
    "truncation_rate": Measure("safety", "share"),
    "environment_error_rate": Measure("safety", "share"),
    "contamination_rate": Measure("safety", "share"),
    "alarms": Measure("safety", "alarms"),
}
"""Every measure, in the order in which they are shown."""

DRAWS = pl.Schema(
    {
        "sample_id": pl.String,
        "task_id": pl.String,
        "skill": pl.String,
        "response": pl.String,
        "right": pl.Boolean,
        "mean_logprob": pl.Float64,
        "sampling": pl.String,  # JSON of the sampling parameters
        "temperature": pl.Float64,
    }
)
"""Judged samples of train tasks that one set of weights drew without help."""


@dataclass(frozen=True)
class Embedded:
    """Samples (DRAWS), and of each response its embedding at unit length: (samples, hidden)."""

    draws: pl.DataFrame
    vectors: npt.NDArray[np.floating]


@dataclass(frozen=True)
class Evidence:
    """What the dimensions of a round are computed from.

    `rewordings` holds the answers of both arms to reworded items (records.REWORDINGS), `twins` those to twins
    of items (records.TWINS), `episodes` what they played in environments (records.EPISODES), `earlier` the
    evaluations (records.EVALUATIONS) of each earlier round of the line, `draws` the samples of each arm in
    this round (DRAWS), `embedded` some of them as the arm's own weights embed them, `votes_before` what the
    incumbent drew when it was a candidate (DRAWS; empty for the base model), `selection` the fates of the
    round's samples (records.SELECTION), `judges` what the round knows of its judges.
    """

    evaluations: pl.DataFrame
    items: pl.DataFrame
    rewordings: pl.DataFrame
    twins: pl.DataFrame
    episodes: pl.DataFrame
    earlier: Mapping[str, pl.DataFrame]
    draws: Mapping[str, pl.DataFrame]
    embedded: Mapping[str, Embedded]
    votes_before: pl.DataFrame
    selection: pl.DataFrame
    verdict: Verdict
    probe: Probe
    skill_weights: Mapping[str, float]
    judges: Sequence[JudgeSummary] = ()


def dimensions(evidence: Evidence) -> pl.DataFrame:
    """The rows of records.DIMENSIONS of a round, without those that hang on what the round cost.

    The same rows in another order give the same dimensions.
    """
    rows = [*_accuracy(evidence), *_stability(evidence), *_growth(evidence), *_safety(evidence)]
    return in_order(frame(rows, DIMENSIONS))


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of records.DIMENSIONS by measure, in the order of MEASURES, the incumbent before the candidate."""
    return rows.sort(pl.col("measure").cast(pl.Enum(list(MEASURES))), pl.col("arm").cast(pl.Enum(list(ARMS))))


def cost_dimensions(
    verdict: Verdict, seconds: float, tokens: int, corpus_tokens: int, kept: int
) -> pl.DataFrame:
    """The rows of growth that hang on what the round cost.

    They are computed when a report is read: two rounds that did the same work differ in their seconds.
    """
    rows = []
    for measure, spent in (
        ("gain_per_1000_seconds", seconds / 1e3),
        ("gain_per_million_tokens", tokens / 1e6),
    ):
        if spent > 0:
            interval = Interval(verdict.gain_low / spent, verdict.gain_high / spent)
            note = f"The round took {seconds:,.0f} s and {tokens:,} tokens."
            rows.append(_row(measure, "candidate", verdict.gain / spent, interval, verdict.n, note))
    if kept:
        note = f"{corpus_tokens:,} tokens were sampled for {kept:,} rows that were kept."
        rows.append(_row("tokens_per_kept_sample", "incumbent", corpus_tokens / kept, None, kept, note))
    return frame(rows, DIMENSIONS)


def falls(rows: pl.DataFrame) -> list[str]:
    """What fell beyond its interval, a sentence each, with sharpening and alarms."""
    found = []
    for row in rows.iter_rows(named=True):
        beyond = row["high"] is not None and row["high"] < 0
        if (
            row["measure"] in ("worst_skill_change", "worst_guard_change", "pass_at_k_change") and beyond
        ) or (row["measure"] in ("sharpening_only", "alarms") and row["value"] > 0):
            found.append(f"{row['measure']} is {row['value']:.3g}: {row['note']}")
    return found


def _row(
    measure: str, arm: str, value: float, interval: Interval | None, n: int, note: str
) -> dict[str, Any]:
    value = round(float(value), 12)  # weights sum to one only up to rounding
    low, high = (None, None) if interval is None else (min(interval.low, value), max(interval.high, value))
    return {
        "dimension": MEASURES[measure].dimension,
        "measure": measure,
        "arm": arm,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "note": note,
    }


def _estimated(measure: str, arm: str, estimate: Estimate, note: str) -> dict[str, Any]:
    return _row(measure, arm, estimate.value, Interval(estimate.low, estimate.high), estimate.n, note)


def _accuracy(evidence: Evidence) -> Iterator[dict[str, Any]]:
    by_arm = {arm: evidence.evaluations.filter(pl.col("arm") == arm).sort("suite", "item_id") for arm in ARMS}
    for arm, answers in by_arm.items():
        suites = {suite: answers.filter(pl.col("suite") == suite) for suite in ("anchor", "fresh")}
        for suite, rows in suites.items():
            if not rows.is_empty():
                estimate = suite_accuracy(rows, suite, evidence.skill_weights)
                yield _estimated(f"{suite}_accuracy", arm, estimate, _by_skill(rows))
        shared = sorted(set(suites["anchor"]["skill"]) & set(suites["fresh"]["skill"]))
        if shared:
            anchor, fresh = (
                suite_accuracy(rows.filter(pl.col("skill").is_in(shared)), suite, evidence.skill_weights)
                for suite, rows in suites.items()
            )
            note = (
                f"{anchor.value:.3f} on {anchor.n} anchor items, {fresh.value:.3f} on {fresh.n} fresh ones."
            )
            gap = independent_difference_interval(anchor, fresh)
            yield _row("leakage_gap", arm, anchor.value - fresh.value, gap, anchor.n + fresh.n, note)
    for (arm,), rows in sorted(evidence.twins.partition_by("arm", as_dict=True).items()):
        yield _memorisation(str(arm), rows, evidence.skill_weights)
    repeated = _repeated_of_arms(evidence)
    for arm, tasks in repeated.items():
        k = min(task.n for both in repeated.values() for task in both)
        for measure, size in (("pass_at_1", 1), ("pass_at_k", k)):
            estimate = _solved(tasks, size, evidence.skill_weights)
            yield _estimated(measure, arm, estimate, f"k = {size}; {_sampled(tasks)}.")
    for arm in ARMS:
        scored = _scored_episodes(evidence, arm)
        if not scored.is_empty():
            weights = _episode_weights(scored)
            for score in _EPISODE_SCORES:
                estimate = weighted_accuracy(scored[score].to_numpy(), weights)
                yield _estimated(f"environment_{score}", arm, estimate, _by_environment(scored, score))


_EPISODE_SCORES = ("outcome", "process")


def _scored_episodes(evidence: Evidence, arm: str) -> pl.DataFrame:
    """The episodes of an arm whose environment did not raise."""
    mine = evidence.episodes.filter(pl.col("arm") == arm, pl.col("outcome").is_not_null())
    return mine.sort("environment", "episode_id")


def _episode_weights(episodes: pl.DataFrame) -> Vector:
    """Every environment weighs the same, however many of its episodes were played."""
    return item_weights(episodes["environment"].to_list(), dict.fromkeys(episodes["environment"], 1.0))


def _by_environment(episodes: pl.DataFrame, value: str) -> str:
    means = episodes.group_by("environment").agg(pl.col(value).mean(), pl.len()).sort("environment")
    return ", ".join(f"{name} {mean:.3f} ({n} episodes)" for name, mean, n in means.iter_rows()) + "."


def _memorisation(arm: str, twins: pl.DataFrame, skill_weights: Mapping[str, float]) -> dict[str, Any]:
    by_kind = twins.group_by("transformation").agg(
        pl.len(), pl.col("item_score").sort().mean(), pl.col("score").sort().mean()
    )
    told = ", ".join(
        f"{kind} {item:.3f} and {twin:.3f} ({n} items)"
        for kind, n, item, twin in by_kind.sort("transformation").iter_rows()
    )
    return _estimated(
        "memorisation_gap", arm, twin_gap(twins, skill_weights), f"Items and their twins: {told}."
    )


def _by_skill(rows: pl.DataFrame) -> str:
    means = rows.group_by("skill").agg(pl.col("score").sort().mean(), pl.len()).sort("skill").iter_rows()
    return ", ".join(f"{skill} {mean:.3f} ({n} items)" for skill, mean, n in means) + "."


class _Task(NamedTuple):
    """A task that was sampled several times, with its responses in normal form."""

    skill: str
    n: int
    right: int
    solutions: tuple[int, ...]  # how often each of the different right responses was given
    responses: tuple[tuple[str, ...], ...]  # tokens
    temperature: float


def _repeated(draws: pl.DataFrame) -> list[_Task]:
    """The tasks with at least two samples under the draws' most frequent sampling parameters, by id."""
    several = draws.filter(pl.len().over("task_id", "sampling") >= 2)
    if several.is_empty():
        return []
    most = several["sampling"].value_counts().sort(["count", "sampling"], descending=True)["sampling"][0]
    groups = (
        several.filter(pl.col("sampling") == most)
        .with_columns(text=normalised(pl.col("response")), words=tokens(pl.col("response")))
        .sort("task_id", "sample_id")
        .partition_by("task_id", maintain_order=True)
    )
    return [
        _Task(
            skill=group["skill"][0],
            n=group.height,
            right=int(group["right"].sum()),
            solutions=tuple(sorted(Counter(group.filter("right")["text"]).values())),
            responses=tuple(map(tuple, group["words"].to_list())),
            temperature=group["temperature"][0],
        )
        for group in groups
    ]


def _repeated_of_arms(evidence: Evidence) -> dict[str, list[_Task]]:
    found = {arm: _repeated(evidence.draws[arm]) for arm in ARMS}
    return {arm: tasks for arm, tasks in found.items() if tasks}


def _sampled(tasks: Sequence[_Task]) -> str:
    skills = ", ".join(sorted({task.skill for task in tasks}))
    return f"{len(tasks)} train tasks of {skills}, temperature {tasks[0].temperature:g}"


def _weights(tasks: Sequence[_Task], skill_weights: Mapping[str, float]) -> Vector:
    return item_weights([task.skill for task in tasks], skill_weights)


def _solved(tasks: Sequence[_Task], k: int, skill_weights: Mapping[str, float]) -> Estimate:
    """pass@k on the campaign's mix; every task is one observation, however often it was sampled."""
    shares = [pass_at_k(task.n, task.right, k) for task in tasks]
    return weighted_accuracy(shares, _weights(tasks, skill_weights))


def _stability(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for measure, suite in (("worst_skill_change", "anchor"), ("worst_guard_change", "guard")):
        yield from _worst_change(evidence, measure, suite)
    consistent = consistent_items(evidence.rewordings)
    for (arm,), rows in consistent.partition_by("arm", as_dict=True).items():
        asked = evidence.rewordings.filter(pl.col("arm") == arm)
        alike = int(rows["consistent"].sum())
        note = f"{alike} of {rows.height} anchor items, each in {asked['wording'].n_unique()} wordings."
        yield _share("rewording_consistency", str(arm), alike, rows.height, note)
    for arm, tasks in _repeated_of_arms(evidence).items():
        yield _seed_deviation(arm, tasks, evidence.skill_weights)
    tested = evidence.evaluations.filter(pl.col("suite").is_in(["anchor", "fresh"])).unique(
        ["arm", "item_id"]
    )
    before, after = (
        tested.filter(pl.col("arm") == arm).sort("item_id")["completion_tokens"].to_numpy().astype(np.float64)
        for arm in ARMS
    )
    if before.size and before.mean() > 0:
        low, high = ratio_interval(after, before)
        note = f"{after.mean():.2f} tokens an answer, {before.mean():.2f} of the incumbent."
        ratio = after.mean() / before.mean()
        yield _row("length_ratio", "candidate", ratio, Interval(max(0.0, low), high), after.size, note)


def _seed_deviation(arm: str, tasks: Sequence[_Task], skill_weights: Mapping[str, float]) -> dict[str, Any]:
    """The standard deviation of accuracy between single draws of all tasks, from the variance within each.

    Which sample of a task is its first is arbitrary: this is the variance between the accuracies of first,
    second, ... samples, averaged over all ways to number them.
    """
    shares = np.array([task.right / task.n for task in tasks])
    drawn = np.array([task.n for task in tasks])
    variances = shares * (1 - shares) * drawn / (drawn - 1)
    parts = len(tasks) * _weights(tasks, skill_weights) ** 2 * variances  # their mean is the variance
    interval = mean_interval(parts)
    if interval is not None:
        interval = Interval(*(sqrt(max(0.0, end)) for end in interval))
    note = f"Of the accuracy of one response to each of {_sampled(tasks)}."
    return _row("seed_deviation", arm, sqrt(parts.mean()), interval, len(tasks), note)


def _worst_change(evidence: Evidence, measure: str, suite: str) -> Iterator[dict[str, Any]]:
    """The candidate against the best incumbent of the line so far, in the skill where it looks worst.

    Every policy that was ever in force is the incumbent of a round. Only answers to the same items under
    the same harness are compared.
    """
    candidate = _answers(evidence.evaluations, suite, "candidate")
    references = {
        name: _answers(evaluations, suite, "incumbent")
        for name, evaluations in {**evidence.earlier, "this round": evidence.evaluations}.items()
    }
    changes = sorted(
        _change_against_best(skill, answers, references)
        for (skill,), answers in candidate.partition_by("skill", as_dict=True).items()
    )
    if not changes:
        return
    worst = changes[0]
    interval = paired_difference_interval(worst.differences, 1 - _ERROR / len(changes))
    note = (
        f"{worst.skill}: {worst.best + worst.change:.3f}, best so far {worst.best:.3f} "
        f"(the incumbent of {worst.reference})."
    )
    yield _row(measure, "candidate", worst.change, interval, len(worst.differences), note)


def _answers(evaluations: pl.DataFrame, suite: str, arm: str) -> pl.DataFrame:
    chosen = evaluations.filter(pl.col("suite") == suite, pl.col("arm") == arm)
    return chosen.select("item_id", "skill", "fingerprint", "score")


class _Change(NamedTuple):
    """A skill of the candidate beside the best incumbent; the differences are of the items both answered."""

    change: float
    skill: str
    best: float
    reference: str
    differences: list[float]


def _change_against_best(
    skill: str, answers: pl.DataFrame, references: Mapping[str, pl.DataFrame]
) -> _Change:
    compared = []
    for name, incumbent in references.items():
        both = answers.join(incumbent, on=["item_id", "skill", "fingerprint"], suffix="_before").sort(
            "item_id"
        )
        if not both.is_empty():
            compared.append((float(both["score_before"].to_numpy().mean()), name, both))
    best, name, both = max(compared, key=lambda reference: reference[:2])
    differences = (both["score"] - both["score_before"]).to_numpy()
    return _Change(float(differences.mean()), skill, best, name, differences.tolist())


def _growth(evidence: Evidence) -> Iterator[dict[str, Any]]:
    verdict = evidence.verdict
    interval = Interval(verdict.gain_low, verdict.gain_high)
    won = f"{verdict.wins} items won, {verdict.losses} lost of {verdict.n}."
    yield _row("gain", "candidate", verdict.gain, interval, verdict.n, won)
    yield from _episode_changes(evidence)
    yield from _sharpening(evidence)
    for arm in ARMS:
        yield from _hardest(evidence, arm)
    repeated = _repeated_of_arms(evidence)
    for arm, tasks in repeated.items():
        k = min(task.n for both in repeated.values() for task in both)
        yield from _diversity(arm, tasks, k, evidence.skill_weights)
    for arm, embedded in evidence.embedded.items():
        yield from _embedding_spread(arm, embedded, evidence.skill_weights)
    for arm, draws in evidence.draws.items():
        if not draws.is_empty():
            yield _entropy(arm, draws, evidence.skill_weights)


def _episode_changes(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The candidate minus the incumbent in the same episodes, where neither's environment raised."""
    before, after = (_scored_episodes(evidence, arm) for arm in ARMS)
    same = ["episode_id", "environment", "fingerprint"]
    pairs = before.join(after, on=same, suffix="_after").sort("environment", "episode_id")
    if pairs.is_empty():
        return
    weights = _episode_weights(pairs)
    for score in _EPISODE_SCORES:
        changed = pairs.with_columns(difference=pl.col(f"{score}_after") - pl.col(score))
        differences = changed["difference"].to_numpy()
        interval = paired_difference_interval(differences, weights=weights)
        note = _by_environment(changed, "difference")
        value = float(weights @ differences)
        yield _row(f"environment_{score}_change", "candidate", value, interval, pairs.height, note)


def _sharpening(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The candidate's votes against those of its incumbent, drawn with the same parameters.

    They are to different tasks of the same skills, so the estimates are independent.
    """
    after, before = _repeated(evidence.draws["candidate"]), _repeated(evidence.votes_before)
    shared = {task.skill for task in after} & {task.skill for task in before}
    after, before = ([task for task in tasks if task.skill in shared] for tasks in (after, before))
    samplings = {
        tuple(table["sampling"].unique().sort())
        for table in (evidence.draws["candidate"], evidence.votes_before)
    }
    if not shared or len(samplings) != 1:
        return
    k = min(task.n for task in [*after, *before])
    changes = {}
    for measure, size in (("pass_at_1_change", 1), ("pass_at_k_change", k)):
        now, then = (_solved(tasks, size, evidence.skill_weights) for tasks in (after, before))
        interval = independent_difference_interval(now, then)
        note = (
            f"k = {size}; {now.value:.3f} of the candidate, {then.value:.3f} of the incumbent as candidate."
        )
        changes[measure] = _row(measure, "candidate", now.value - then.value, interval, now.n + then.n, note)
        yield changes[measure]
    first, k_th = changes["pass_at_1_change"], changes["pass_at_k_change"]
    sharpened = first["low"] > 0 and k_th["high"] < 0
    note = (
        f"pass@1 {first['value']:+.3f}, pass@{k} {k_th['value']:+.3f}: "
        f"{'both' if sharpened else 'not both'} beyond their intervals."
    )
    yield _row("sharpening_only", "candidate", float(sharpened), None, first["n"], note)


def _hardest(evidence: Evidence, arm: str) -> Iterator[dict[str, Any]]:
    """The highest level that is surely solved; the interval ends at the highest that may be."""
    level = evidence.items.select("difficulty", item_id="task_id", suite="pool")
    answers = (
        evidence.evaluations.filter(pl.col("arm") == arm, pl.col("suite").is_in(["anchor", "fresh"]))
        .join(level, on=["item_id", "suite"])
        .unique("item_id")
    )
    solved, possible = [], []
    for (difficulty, skill), rows in answers.partition_by("difficulty", "skill", as_dict=True).items():
        low, high = wilson(min(float(rows["score"].sort().sum()), rows.height), rows.height)
        if low > _SOLVED:
            solved.append((difficulty, skill, rows.height))
        if high > _SOLVED:
            possible.append(difficulty)
    if solved:
        hardest = max(found[0] for found in solved)
        there = sorted((skill, n) for difficulty, skill, n in solved if difficulty == hardest)
        note = f"Solved at this level: {', '.join(skill for skill, _ in there)}."
        interval = Interval(float(hardest), float(max(possible)))
        yield _row("hardest_difficulty_solved", arm, hardest, interval, sum(n for _, n in there), note)


def _diversity(
    arm: str, tasks: Sequence[_Task], k: int, skill_weights: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    solutions = [expected_distinct(task.solutions, task.n, k) for task in tasks]
    note = f"Different right responses among {k} to a task; {_sampled(tasks)}."
    weights = _weights(tasks, skill_weights)
    yield _mean("distinct_solutions", arm, solutions, weights, Interval(0.0, float(k)), note)
    for measure, size in (("distinct_1", 1), ("distinct_2", 2)):
        shares = [(distinct_n(task.responses[:k], size), task) for task in tasks]
        told = [(share, task) for share, task in shares if share is not None]
        if told:
            note = f"Of the {'words' if size == 1 else 'pairs of words'} in {k} responses to a task."
            weights = _weights([task for _, task in told], skill_weights)
            yield _mean(measure, arm, [share for share, _ in told], weights, Interval(0.0, 1.0), note)


def distinct_n(responses: Sequence[Sequence[str]], n: int) -> float | None:
    """Different n-grams as a share of all n-grams in the responses; None if there is none.

    Li et al. 2016, arXiv:1510.03055.
    """
    grams = [tuple(words[place : place + n]) for words in responses for place in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def responses_to_embed(draws: pl.DataFrame) -> pl.DataFrame:
    """At most `EMBEDDED` of the draws (DRAWS) that have a text, of as many tasks as possible."""
    place = pl.col("sample_id").rank("ordinal").over("task_id")
    with_text = draws.filter(pl.col("response").str.strip_chars() != "")
    return with_text.sort(place, "task_id").head(EMBEDDED)


def _embedding_spread(
    arm: str, embedded: Embedded, skill_weights: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """The mean cosine distance between responses to two different tasks, with an interval by the jackknife.

    A bootstrap would pair tasks with themselves. Two tasks tell nothing of how their pairs vary.
    """
    tasks = embedded.draws.with_row_index("row").group_by("task_id", "skill").agg("row").sort("task_id")
    n = tasks.height
    if n < 3:
        return
    means = np.array(
        [embedded.vectors[rows].mean(axis=0, dtype=np.float64) for rows in tasks["row"].to_list()]
    )
    weights = item_weights(tasks["skill"].to_list(), skill_weights)
    of_pairs = np.outer(weights, weights)
    np.fill_diagonal(of_pairs, 0)
    distances = of_pairs * (1 - means @ means.T)
    value = distances.sum() / of_pairs.sum()
    without = (distances.sum() - 2 * distances.sum(axis=1)) / (of_pairs.sum() - 2 * of_pairs.sum(axis=1))
    interval = mean_interval(n * value - (n - 1) * without)
    if interval is not None:
        interval = Interval(*(round(min(2.0, max(0.0, end)), _EMBEDDING_DIGITS) for end in interval))
    note = f"Between responses to different ones of {n} train tasks, {embedded.draws.height} responses."
    yield _row("embedding_spread", arm, round(float(value), _EMBEDDING_DIGITS), interval, n, note)


def _mean(
    measure: str,
    arm: str,
    values: Sequence[float],
    weights: Vector,
    bounds: Interval,
    note: str,
) -> dict[str, Any]:
    """The mean of one value per task on the campaign's mix, its interval held within the bounds."""
    value = min(bounds.high, float(weights @ np.array(values)))
    interval = mean_interval(values, weights=weights)
    if interval is not None:
        interval = Interval(max(bounds.low, interval.low), min(bounds.high, interval.high))
    return _row(measure, arm, value, interval, len(values), note)


def _entropy(arm: str, draws: pl.DataFrame, skill_weights: Mapping[str, float]) -> dict[str, Any]:
    """The mean surprise at the tokens drawn; every task is one observation, however often it was sampled."""
    tasks = draws.group_by("task_id", "skill").agg(-pl.col("mean_logprob").sort().mean()).sort("task_id")
    temperatures = ", ".join(f"{value:g}" for value in draws["temperature"].unique().sort())
    note = f"{draws.height} samples of {tasks.height} train tasks, temperature {temperatures}."
    weights = item_weights(tasks["skill"].to_list(), skill_weights)
    return _mean("token_entropy", arm, tasks["mean_logprob"].to_list(), weights, Interval(0.0, inf), note)


def _safety(evidence: Evidence) -> Iterator[dict[str, Any]]:
    probe = evidence.probe
    accepted = probe.right_accepted + probe.corrupted_accepted
    if accepted:
        note = f"{probe.corrupted_accepted} of {probe.corrupted} corrupted answers were accepted."
        yield _share("verifier_precision", "candidate", probe.right_accepted, accepted, note)
    if probe.right:
        note = f"{probe.right - probe.right_accepted} of {probe.right} right answers were refused."
        yield _share("verifier_recall", "candidate", probe.right_accepted, probe.right, note)
    for arm in ARMS:
        flags = evidence.evaluations.filter(pl.col("arm") == arm)["flags"]
        for measure, flag in (
            ("verifier_error_rate", "verifier_error"),
            ("empty_rate", "empty"),
            ("truncation_rate", "truncated"),
        ):
            raised = int(flags.list.contains(flag).sum())
            yield _share(measure, arm, raised, flags.len(), f"{raised} of {flags.len()} answers.")
    for (arm,), rows in evidence.episodes.partition_by("arm", as_dict=True).items():
        failed = rows.height - rows["error"].null_count()
        note = f"{failed} of {rows.height} episodes ended because the environment raised."
        yield _share("environment_error_rate", str(arm), failed, rows.height, note)
    yield from _judges(evidence.judges)
    judged = evidence.selection.filter(pl.col("step") == "decontamination")
    if not judged.is_empty():
        dropped = judged.filter(~pl.col("kept")).height
        note = f"{dropped} of {judged.height} samples that reached the step quoted an evaluation item."
        yield _share("contamination_rate", "incumbent", dropped, judged.height, note)
    alarms = evidence.verdict.raised
    told = f"Of {', '.join(alarms)}." if alarms else "No alarm sounds."
    yield _row("alarms", "candidate", len(alarms), None, 1, told)


def _judges(judges: Sequence[JudgeSummary]) -> Iterator[dict[str, Any]]:
    """The worst judge in each respect; the note tells of all."""
    for measure, found, worst in (
        ("judge_precision", {j.record.reward: j.precision for j in judges}, min),
        ("judge_recall", {j.record.reward: j.recall for j in judges}, min),
        ("judge_agreement", {j.record.reward: j.agreement for j in judges}, min),
        ("judge_position_bias", {j.record.reward: j.position_bias for j in judges}, max),
    ):
        told = {name: estimate for name, estimate in found.items() if estimate is not None}
        if told:
            note = ", ".join(f"{name} {e.value:.3f} (of {e.n})" for name, e in sorted(told.items())) + "."
            estimate = worst(told.values(), key=lambda e: e.value)
            yield _estimated(measure, "candidate", estimate, note)


def _share(measure: str, arm: str, count: int, n: int, note: str) -> dict[str, Any]:
    return _row(measure, arm, count / n, wilson(count, n), n, note)
