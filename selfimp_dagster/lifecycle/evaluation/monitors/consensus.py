"""Wrong consensus: draws that agree with each other and not with the truth."""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.against import LEAST, incumbents, pairs_with
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval
from selfimp_dagster.lifecycle.evaluation.summary import Counted

_MOSTLY = 0.5  # labels of which fewer are right teach more wrong than right


def wrong_consensus(
    watched: Mapping[str, pl.DataFrame], labelled: Counted | None, rule: MonitorRule, level: float
) -> Reading:
    """Whether the candidate's votes became wrong while its draws agree as much as before.

    Learning from the majority drifts so: it improves, then collapses into consistent wrong answers
    (Shafayat et al. 2025, arXiv:2505.21444). Over the same watched items an alarm sounds if the accuracy of
    the vote is below an incumbent's by more than `consensus_fall`, beyond its interval (Bonett and Price),
    while the share of the draws that agree is not surely lower. Where votes are the labels, an alarm also
    sounds if most tasks that the candidate was trained on were surely given a wrong one. The level is
    divided by the comparisons.

    Args:
        watched: records.WATCHED of each round of the line, in order, this one's last.
        labelled: tasks of this round that the candidate learnt from, and how many of them with a right
            answer; None where the recipe sees the truth.
        level: of this monitor in this round.
    """
    now = list(watched.values())[-1].filter(pl.col("arm") == "candidate")
    pairs = pairs_with(now, incumbents(watched), votes)
    enough = labelled is not None and labelled.n >= 2 * LEAST
    comparisons = len(pairs) + enough
    if not comparisons:
        return unmeasured("wrong_consensus", "too few watched items were answered several times by both")
    confidence = 1 - 2 * level / comparisons
    if enough and labelled is not None:
        share, interval = labelled.share, labelled.interval(confidence)
        if interval.high < _MOSTLY or not pairs:
            return Reading(
                monitor="wrong_consensus",
                state="alarm" if interval.high < _MOSTLY else "quiet",
                follows="reject",
                sentence=f"Of {labelled.n} tasks of the round that the candidate learnt from, demonstrations "
                f"included, {labelled.right:g} had a right answer ({share:.2f}, interval "
                f"{interval.low:.2f} to {interval.high:.2f}).",
                value=share,
                low=interval.low,
                high=interval.high,
                threshold=_MOSTLY,
                level=level,
                n=labelled.n,
            )
    results = []
    for round_, rows in pairs.items():
        changes = {name: (rows[name] - rows[f"{name}_before"]).to_numpy() for name in ("right", "agreement")}
        fall = paired_difference_interval(changes["right"], confidence)
        agree = paired_difference_interval(changes["agreement"], confidence)
        results.append((agree.high < 0, fall.high, fall.low, changes, round_, rows))
    parted, high, low, changes, round_, rows = min(results, key=lambda result: (result[0], result[1]))
    sounds = high < -rule.consensus_fall and not parted
    change = float(changes["right"].mean())
    means = {name: float(rows[name].to_numpy().mean()) for name in rows.columns[2:]}
    return Reading(
        monitor="wrong_consensus",
        state="alarm" if sounds else "quiet",
        follows="reject",
        sentence=f"The vote on {rows.height} watched items is right in {means['right']:.2f} of them, that of "
        f"the incumbent of {round_} in {means['right_before']:.2f} (difference {change:+.2f}, interval "
        f"{low:+.2f} to {high:+.2f}); a share of {means['agreement']:.2f} of the draws agrees, "
        f"{means['agreement_before']:.2f} before" + (": a consensus on wrong answers." if sounds else "."),
        value=change,
        low=low,
        high=high,
        threshold=-rule.consensus_fall,
        level=level,
        n=rows.height,
    )


def votes(draws: pl.DataFrame) -> pl.DataFrame:
    """The vote of one policy on each item (records.WATCHED): whether it is right, and how many agree.

    An answer that most draws give is the vote; where two are given equally often there is none, and it counts
    as wrong. Draws without an answer agree with nothing.
    """
    drawn: dict[tuple[str, str], list[tuple[str | None, float]]] = {}
    columns = draws.sort("draw").select("item_id", "fingerprint", "answer", "score")
    for item, fingerprint, answer, score in columns.iter_rows():
        drawn.setdefault((item, fingerprint), []).append((answer, score))
    rows = []
    for (item, fingerprint), given in drawn.items():
        counted = Counter(answer for answer, _ in given if answer is not None)
        first, second = (*counted.most_common(2), (None, 0), (None, 0))[:2]
        tied = first[1] == second[1]
        right = 0.0 if tied else next(score for answer, score in given if answer == first[0])
        rows.append((item, fingerprint, right, first[1] / len(given)))
    schema = {"item_id": pl.String, "fingerprint": pl.String, "right": pl.Float64, "agreement": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def labelled_tasks(
    training: pl.DataFrame, samples: pl.DataFrame, answers: pl.DataFrame, round_: str
) -> Counted | None:
    """The tasks of this round that were learnt from, and how many of them with a right answer.

    Demonstrations are among them, and right: a few wrong labels among many right ones do little harm.

    Args:
        training: records.TRAINING of the candidate.
        samples: records.SAMPLES of the round's corpus.
        answers: the rewards `answer` of the samples (records.REWARDS).
        round_: the round.
    """
    shown = samples.filter(pl.col("generation") == "D")["sample_id"].to_list()
    known = answers.filter(pl.col("confidence") > 0).select("sample_id", right=pl.col("value") >= 1)
    is_shown = pl.col("sample_id").is_null() | pl.col("sample_id").is_in(shown)
    imitated = (
        training.filter(
            pl.col("role").is_in(["imitated", "chosen", "desirable"]), pl.col("origin_round") == round_
        )
        .join(known, on="sample_id", how="left")
        .with_columns(right=pl.when(is_shown).then(pl.lit(True)).otherwise("right"))
        .drop_nulls("right")
        .group_by("task_id")
        .agg(pl.col("right").mean())
    )
    if imitated.is_empty():
        return None
    return Counted(right=round(float(imitated["right"].sort().sum()), 9), n=imitated.height)
