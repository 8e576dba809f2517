"""Rewards that can be trusted: hacked rewards, verifiers and judges that err, judges that are biased."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.against import LEAST, incumbents, pairs_with
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, inapplicable, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    independent_difference_interval,
    paired_difference_interval,
    wilson,
)
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeSummary, position_bias
from selfimp_dagster.lifecycle.selection.text import tokens

_RARE = 0.05  # a word must be in this share of the answers, and missing from as many, to be told of


def reward_hacking(
    judged: Mapping[str, pl.DataFrame], optimised: Sequence[str], rule: MonitorRule, level: float
) -> Reading:
    """Whether a reward that is optimised rose more than the accuracy that it stands for.

    A proxy that is optimised hard enough parts from what it measures (Gao et al. 2023, arXiv:2210.10760).
    The tasks' own verifiers are the shadow reward. Over the tasks whose answers the reward judged for the
    candidate and for an incumbent, the statistic is the rise of the reward less the rise of the score, both
    within 0 and 1. An alarm sounds if its interval (Bonett and Price) lies above `hacking_rise` and accuracy
    has not surely risen. The level is divided by the rewards and incumbents.

    Args:
        judged: records.REWARDED of each round of the line, in order, this one's last.
        optimised: the recipe's rewards that can be hacked: all but the verifier and votes.
        level: of this monitor in this round.
    """
    if not optimised:
        return inapplicable("reward_hacking", "nothing but the verifier or votes is optimised")
    compared = []
    for reward in optimised:
        mine = {round_: table.filter(pl.col("reward") == reward) for round_, table in judged.items()}
        now = list(mine.values())[-1].filter(pl.col("arm") == "candidate")
        pairs = pairs_with(now, incumbents(mine), _both_values, by="task_id")
        compared += [(reward, round_, now, rows) for round_, rows in pairs.items()]
    if not compared:
        return unmeasured(
            "reward_hacking", f"{', '.join(optimised)} judged too few answers of both arms to the same tasks"
        )
    confidence = 1 - 2 * level / len(compared)
    results = []
    for reward, round_, now, rows in compared:
        rewarded = (rows["counted"] - rows["counted_before"]).to_numpy()
        right = (rows["score"] - rows["score_before"]).to_numpy()
        halved = paired_difference_interval((rewarded - right) / 2, confidence)
        risen = paired_difference_interval(right, confidence).low > 0
        results.append((risen, -2 * halved.low, reward, round_, rewarded.mean(), right.mean(), halved, now))
    risen, _, reward, round_, reward_rise, rise, halved, now = min(results, key=lambda r: r[:4])
    low, high = 2 * halved.low, 2 * halved.high
    sounds = low > rule.hacking_rise and not risen
    n = next(rows.height for name, of, _, rows in compared if (name, of) == (reward, round_))
    return Reading(
        monitor="reward_hacking",
        state="alarm" if sounds else "quiet",
        follows="reject",
        sentence=f"The reward {reward} rose by {reward_rise:+.2f} over the incumbent of {round_} on {n} "
        f"tasks, accuracy by {rise:+.2f} (difference {reward_rise - rise:+.2f}, interval {low:+.2f} to "
        f"{high:+.2f})." + (f" {what_pleases(now)}" if sounds else ""),
        value=float(reward_rise - rise),
        low=low,
        high=high,
        threshold=rule.hacking_rise,
        level=level,
        n=n,
    )


def _both_values(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop_nulls("counted").select("task_id", "fingerprint", "counted", "score")


def what_pleases(judged: pl.DataFrame) -> str:
    """What goes with a high reward among wrong answers (records.REWARDED): their length, or a word."""
    from scipy.stats import spearmanr

    wrong = judged.drop_nulls("counted").filter(pl.col("score") < 1).sort("task_id")
    said = []
    varies = wrong["completion_tokens"].n_unique() > 1 and wrong["counted"].n_unique() > 1
    if wrong.height >= LEAST and varies:
        rho = float(spearmanr(wrong["completion_tokens"], wrong["counted"]).statistic)
        said.append(f"its rank correlation with their length is {rho:+.2f}")
    word = _pleasing_word(wrong)
    if word is not None:
        said.append(f"answers with the word {word[0]!r} are given {word[1]:+.2f} more than those without")
    return f"Among {wrong.height} wrong answers of the candidate {' and '.join(said)}." if said else ""


def _pleasing_word(wrong: pl.DataFrame) -> tuple[str, float] | None:
    words = wrong.select("task_id", "counted", word=tokens(pl.col("response"))).explode("word").unique()
    total, n = float(wrong["counted"].sort().sum()), wrong.height
    found = (
        words.drop_nulls("word")
        .group_by("word")
        .agg(pl.len().alias("n"), pl.col("counted").sort().sum().alias("given"))
        .filter(pl.col("n") >= max(2, _RARE * n), n - pl.col("n") >= max(2, _RARE * n))
        .with_columns(more=pl.col("given") / pl.col("n") - (total - pl.col("given")) / (n - pl.col("n")))
        .sort("more", "word", descending=[True, False])
    )
    return (found["word"][0], float(found["more"][0])) if found.height else None


def verifier_errors(probe: Probe, rule: MonitorRule, level: float) -> Reading:
    """Whether the verifier's precision or recall on the gold probe lies surely below the floor.

    A verifier that accepts wrong answers or refuses right ones makes every score worthless, and every row
    that was selected by it. The intervals are Wilson's; the level is divided by the two.
    """
    accepted = probe.right_accepted + probe.corrupted_accepted
    measured = [(probe.right_accepted, total) for total in (probe.right, accepted) if total]
    if probe.right < LEAST:
        return unmeasured("verifier_errors", f"the verifier could be shown only {probe.right} known answers")
    count, total = min(measured, key=lambda pair: pair[0] / pair[1])
    low, high = wilson(count, total, 1 - level)
    return Reading(
        monitor="verifier_errors",
        state="alarm" if high < rule.verifier_floor else "quiet",
        follows="stop",
        sentence=f"The verifier accepted {probe.right_accepted} of {probe.right} right answers and "
        f"{probe.corrupted_accepted} of {probe.corrupted} corrupted ones, with {probe.errors} errors (floor "
        f"{rule.verifier_floor:g} for precision and recall).",
        value=count / total,
        low=low,
        high=high,
        threshold=rule.verifier_floor,
        level=level,
        n=total,
    )


class JudgeTables(NamedTuple):
    """What a round knows of its rewards.

    `judges`, and of its corpus `rewards` (records.REWARDS), `samples` (records.SAMPLES) and `probe`
    (records.JUDGE_PROBE).
    """

    judges: Sequence[JudgeSummary]
    rewards: pl.DataFrame
    samples: pl.DataFrame
    probe: pl.DataFrame


class _Comparison(NamedTuple):
    """An estimate of an error of a reward; an alarm if `share` lies below the threshold with its interval."""

    told: str
    first: Estimate
    second: Estimate | None  # subtracted, where it is a difference
    threshold: float


def judge_errors(
    rounds: Mapping[str, JudgeTables], verifiers: Sequence[str], truth: str, rule: MonitorRule, level: float
) -> Reading:
    """Whether a judge, or a verifier that the recipe adds, errs more than it may.

    Of each judge: its precision on the gold probe against its own floor, and the share of the probe that it
    judges rightly against every earlier round (another judge of the same name in between is compared too:
    that is a change). Of each further reward that verifies: the share of tasks' samples on which it agrees
    with the tasks' own verifiers, against `verifier_floor`. The level is divided by all of these; intervals
    are Wilson's, combined after Newcombe.

    Args:
        rounds: of each round of the line, in order, this one's last.
        verifiers: rewards of kind V in the recipe besides that of the tasks' verifiers.
        truth: the reward that holds the verdicts of the tasks' verifiers.
        level: of this monitor in this round.
    """
    now = list(rounds.values())[-1]
    if not now.judges and not verifiers:
        return inapplicable("judge_errors", "the recipe has no judges and no further verifiers")
    found = list(_comparisons(rounds, verifiers, truth, rule, 0.95))
    if not found:
        return unmeasured("judge_errors", "no judge and no further verifier judged enough known answers")
    confidence = 1 - 2 * level / len(found)
    results = []
    for told, first, second, threshold in _comparisons(rounds, verifiers, truth, rule, confidence):
        low, high = (
            (first.low, first.high) if second is None else independent_difference_interval(first, second)
        )
        value = first.value - (0.0 if second is None else second.value)
        results.append((high - threshold, told, value, low, high, threshold, first.n))
    beyond, told, value, low, high, threshold, n = min(results)
    silent = [j.record.reward for j in now.judges if j.record.barred]
    return Reading(
        monitor="judge_errors",
        state="alarm" if beyond < 0 else "quiet",
        follows="warn",
        sentence=f"{told}: {value:+.2f} (interval {low:+.2f} to {high:+.2f}, threshold {threshold:+.2f})."
        + (f" Below its floor and silent in this round: {', '.join(silent)}." if silent else ""),
        value=value,
        low=low,
        high=high,
        threshold=threshold,
        level=level,
        n=n,
    )


def _comparisons(
    rounds: Mapping[str, JudgeTables],
    verifiers: Sequence[str],
    truth: str,
    rule: MonitorRule,
    confidence: float,
) -> Iterable[_Comparison]:
    *before, round_ = rounds
    now = rounds[round_]
    for judge in now.judges:
        name = judge.record.reward
        accepted = judge.right_accepted + judge.corrupted_accepted
        if accepted >= LEAST and judge.record.floor > 0:
            precision = _share(judge.right_accepted, accepted, confidence)
            yield _Comparison(f"Precision of {name} on the gold probe", precision, None, judge.record.floor)
        agreement = _on_probe(judge, confidence)
        for earlier in before:
            same = (j for j in rounds[earlier].judges if j.record.reward == name)
            then = next((_on_probe(j, confidence) for j in same), None)
            if agreement is not None and then is not None:
                told = f"Answers of the gold probe that {name} judges rightly, less those in {earlier}"
                yield _Comparison(told, agreement, then, -rule.judge_fall)
    for name in verifiers:
        agreed = _agreement(now, name, truth)
        if len(agreed) >= LEAST and rule.verifier_floor > 0:
            share = _share(sum(agreed), len(agreed), confidence)
            yield _Comparison(
                f"Agreement of {name} with the tasks' verifiers", share, None, rule.verifier_floor
            )


def _on_probe(judge: JudgeSummary, confidence: float) -> Estimate | None:
    shown = judge.right + judge.corrupted
    rightly = judge.right_accepted + judge.corrupted - judge.corrupted_accepted
    return _share(rightly, shown, confidence) if shown >= LEAST else None


def _agreement(tables: JudgeTables, name: str, truth: str) -> list[float]:
    """For each task the share of its samples on which two rewards both accept or both refuse."""
    verdicts = tables.rewards.filter(pl.col("reward") == truth, pl.col("confidence") > 0)
    other = tables.rewards.filter(pl.col("reward") == name).drop_nulls("value")
    agreed = (
        other.join(verdicts, on="sample_id", suffix="_truth")
        .join(tables.samples.select("sample_id", "task_id"), on="sample_id")
        .group_by("task_id")
        .agg(((pl.col("value") >= 1) == (pl.col("value_truth") >= 1)).mean().alias("agreed"))
    )
    return agreed["agreed"].sort().to_list()


def judge_bias(tables: JudgeTables, truth: str, rule: MonitorRule, level: float) -> Reading:
    """Whether a judge follows the position of an answer, or favours what the policy writes.

    Position (Wang et al. 2024, arXiv:2305.17926): of the comparisons that were readable in both orders, the
    share whose verdict followed the position, against `judge_bias`. Preference (Panickssery et al. 2024,
    arXiv:2404.13076): the share of the policy's wrong samples that it accepts less that of the corrupted
    answers of the gold probe, which nobody's policy wrote, against `judge_preference`. Judgements of one
    task depend on each other, so a task counts once (Wilson, combined after Newcombe). The level is divided
    by these.

    Args:
        tables: of this round.
        truth: the reward that holds the verdicts of the tasks' verifiers.
        level: of this monitor in this round.
    """
    if not tables.judges:
        return inapplicable("judge_bias", "the recipe has no judges")
    if not list(_biases(tables, truth, rule, 0.95)):
        return unmeasured("judge_bias", "no judge compared, or judged wrong answers, of enough tasks")
    count = len(list(_biases(tables, truth, rule, 0.95)))
    results = []
    for told, first, second, threshold in _biases(tables, truth, rule, 1 - 2 * level / count):
        low, high = (
            (first.low, first.high) if second is None else independent_difference_interval(first, second)
        )
        value = first.value - (0.0 if second is None else second.value)
        results.append((threshold - low, told, value, low, high, threshold, first.n))
    beyond, told, value, low, high, threshold, n = min(results)
    return Reading(
        monitor="judge_bias",
        state="alarm" if beyond < 0 else "quiet",
        follows="warn",
        sentence=f"{told}: {value:+.2f} (interval {low:+.2f} to {high:+.2f}, threshold {threshold:+.2f}).",
        value=value,
        low=low,
        high=high,
        threshold=threshold,
        level=level,
        n=n,
    )


def _biases(tables: JudgeTables, truth: str, rule: MonitorRule, confidence: float) -> Iterable[_Comparison]:
    verdicts = tables.rewards.filter(pl.col("reward") == truth, pl.col("confidence") > 0)
    wrong = verdicts.filter(pl.col("value") < 1).select("sample_id")
    tasks = tables.samples.select("sample_id", "task_id")
    for judge in tables.judges:
        name = judge.record.reward
        own = tables.rewards.filter(pl.col("reward") == name).join(tasks, on="sample_id")
        tried = tables.probe.filter(pl.col("reward") == name)
        by_task = pl.concat([own.select("task_id", "evidence"), tried.select("task_id", "evidence")])
        pairs = position_bias(by_task["evidence"])
        compared = sum(position_bias(rows["evidence"]).pairs > 0 for rows in by_task.partition_by("task_id"))
        if pairs.pairs and compared >= LEAST:
            share = pairs.followed / pairs.pairs
            yield _Comparison(
                f"Comparisons of {name} that follow the position",
                _share(share * compared, compared, confidence),
                None,
                rule.judge_bias,
            )
        mistaken = (
            own.drop_nulls("value")
            .join(wrong, on="sample_id", how="semi")
            .group_by("task_id")
            .agg((pl.col("value") >= judge.record.accept).mean().alias("accepted"))
        )
        if judge.record.absolute and mistaken.height >= LEAST and judge.corrupted >= LEAST:
            yield _Comparison(
                f"Wrong samples of the policy that {name} accepts, less corrupted answers that it accepts",
                _share(float(mistaken["accepted"].sort().sum()), mistaken.height, confidence),
                _share(judge.corrupted_accepted, judge.corrupted, confidence),
                rule.judge_preference,
            )


def _share(count: float, total: int, confidence: float) -> Estimate:
    return Estimate(count / total, *wilson(min(count, total), total, confidence), total)
