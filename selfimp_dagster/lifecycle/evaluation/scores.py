"""From rows of evaluations to accuracies: by suite on the campaign's mix, by skill, and paired by item."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    Vector,
    paired_difference_interval,
    weighted_accuracy,
    wilson,
)
from selfimp_dagster.records import EVALUATIONS, check_schema

_WHERE = "evaluations"
_ITEM = ["suite", "item_id"]

SKILL_SCORES = pl.Schema(
    {
        "suite": pl.String,
        "skill": pl.String,
        "arm": pl.String,
        "accuracy": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
    }
)

PAIRS = pl.Schema(
    {
        "suite": pl.String,
        "item_id": pl.String,
        "skill": pl.String,
        "before": pl.Float64,
        "after": pl.Float64,
    }
)


def item_weights(skills: Sequence[str], skill_weights: Mapping[str, float]) -> Vector:
    """The weight of each item, given the skill of each: its skill's weight over the items of that skill.

    Skills of the mix that have no item here are left out of it; the weights sum to one.

    Raises:
        SelfimpError: a skill has no positive weight.
    """
    counts = Counter(skills)
    without = sorted(skill for skill in counts if skill_weights.get(skill, 0) <= 0)
    if without:
        raise SelfimpError(
            f"no positive weight for the skills {', '.join(without)}",
            where=_WHERE,
            fix="give every skill that is measured a weight in the campaign, or take it out of the suite",
        )
    weights: Vector = np.array([skill_weights[skill] / counts[skill] for skill in skills])
    weights /= weights.sum()
    return weights


def suite_accuracy(
    rows: pl.DataFrame, suite: str, skill_weights: Mapping[str, float], confidence: float = 0.95
) -> Estimate:
    """Accuracy of the rows of one suite and arm on the campaign's mix of skills.

    Guard skills are not part of the mix: in the suite `guard` every skill weighs the same.

    Raises:
        SelfimpError: a skill has no positive weight.
    """
    skills = rows["skill"].to_list()
    mix = dict.fromkeys(skills, 1.0) if suite == "guard" else skill_weights
    return weighted_accuracy(rows["score"].to_numpy(), item_weights(skills, mix), confidence)


def suite_scores(
    evaluations: pl.DataFrame, skill_weights: Mapping[str, float]
) -> dict[str, dict[str, Estimate]]:
    """`{suite: {arm: accuracy on the campaign's mix}}`, with 95 % intervals.

    Raises:
        SelfimpError: the rows are no valid evaluations, or a skill has no positive weight.
    """
    groups = (
        check_scores(evaluations).sort("suite", "arm", "item_id").partition_by("suite", "arm", as_dict=True)
    )
    scores: dict[str, dict[str, Estimate]] = {}
    for (suite, arm), rows in groups.items():
        scores.setdefault(suite, {})[arm] = suite_accuracy(rows, suite, skill_weights)
    return scores


def skill_scores(evaluations: pl.DataFrame) -> pl.DataFrame:
    """Accuracy by suite, skill and arm with 95 % Wilson intervals (`SKILL_SCORES`).

    Raises:
        SelfimpError: the rows are no valid evaluations.
    """
    table = (
        check_scores(evaluations)
        .group_by("suite", "skill", "arm")
        .agg(pl.col("score").sort().sum().alias("total"), pl.len().alias("n"))
        .sort("suite", "skill", "arm")
    )
    rows = []
    for suite, skill, arm, total, n in table.iter_rows():
        low, high = wilson(min(total, n), n)
        rows.append((suite, skill, arm, total / n, low, high, n))
    return pl.DataFrame(rows, schema=SKILL_SCORES, orient="row")


def pair_arms(evaluations: pl.DataFrame, before: str = "incumbent", after: str = "candidate") -> pl.DataFrame:
    """One row for each item with the scores of both arms (`PAIRS`), sorted by suite and item.

    Raises:
        SelfimpError: the rows are no valid evaluations, or the arms did not see identical items under the
            same harness.
    """
    check_scores(evaluations)
    columns = [*_ITEM, "skill", "score", "fingerprint"]
    first, second = (evaluations.filter(pl.col("arm") == arm).select(columns) for arm in (before, after))
    pairs = first.join(second, on=_ITEM, how="full", suffix="_after", coalesce=True, validate="1:1")
    alone = pairs.filter(pl.col("score").is_null() | pl.col("score_after").is_null())
    if pairs.is_empty() or not alone.is_empty():
        example = f" (for example {'/'.join(alone.sort(_ITEM).row(0)[:2])})" if alone.height else ""
        raise SelfimpError(
            f"{alone.height} of {pairs.height} items were answered by only one of the arms "
            f"{before} and {after}{example}",
            where=_WHERE,
            fix="measure both arms on the same items: materialize eval_report again",
        )
    if not pairs["skill"].equals(pairs["skill_after"]):
        raise SelfimpError(
            f"an item counts for one skill in the arm {before} and for another in {after}",
            where=_WHERE,
            fix="measure both arms with the same suites: materialize eval_report again",
        )
    harnesses = pairs.filter(pl.col("fingerprint").ne_missing(pl.col("fingerprint_after")))
    if not harnesses.is_empty():
        raise SelfimpError(
            f"{harnesses.height} of {pairs.height} items were measured under different harness fingerprints "
            f"({harnesses['fingerprint'][0]} for {before}, {harnesses['fingerprint_after'][0]} for {after})",
            where=_WHERE,
            fix="measure both arms with the same scorer, prompts, sampling and engine; "
            "answers of another harness must not be reused",
        )
    return pairs.rename({"score": "before", "score_after": "after"}).select(list(PAIRS)).sort(_ITEM)


def twin_gap(twins: pl.DataFrame, skill_weights: Mapping[str, float], confidence: float = 0.95) -> Estimate:
    """Accuracy of one arm on items minus that on their twins (records.TWINS), on the campaign's mix.

    Raises:
        SelfimpError: a skill has no positive weight.
    """
    rows = twins.sort("twin_id")
    weights = item_weights(rows["skill"].to_list(), skill_weights)
    differences = (rows["item_score"] - rows["score"]).to_numpy()
    low, high = paired_difference_interval(differences, confidence, weights)
    return Estimate(float(differences @ weights), low, high, rows.height)


def paired_counts(pairs: pl.DataFrame) -> tuple[int, int, int]:
    """How many of the items in `PAIRS` were won, lost and tied by the second arm."""
    wins = int((pairs["after"] > pairs["before"]).sum())
    losses = int((pairs["after"] < pairs["before"]).sum())
    return wins, losses, pairs.height - wins - losses


def policy_of(evaluations: pl.DataFrame, arm: str) -> str:
    """The hash of the weights that an arm was measured with.

    Raises:
        SelfimpError: the arm has no rows, or rows of more than one policy.
    """
    hashes = evaluations.filter(pl.col("arm") == arm)["policy_hash"].unique().sort().to_list()
    if len(hashes) != 1:
        raise SelfimpError(
            f"the arm {arm} holds answers of {len(hashes)} policies",
            where=_WHERE,
            fix="materialize eval_report again, with one set of weights for each arm",
        )
    return str(hashes[0])


def check_scores(evaluations: pl.DataFrame) -> pl.DataFrame:
    """The evaluations unchanged.

    Raises:
        SelfimpError: the columns do not fit, an arm has an item twice, or a score is not in [0, 1].
    """
    check_schema(evaluations, EVALUATIONS, _WHERE)
    invalid = evaluations.filter(~pl.col("score").is_between(0, 1).fill_null(False))
    if not invalid.is_empty():
        raise SelfimpError(
            f"{invalid.height} scores are not in [0, 1] (for example {invalid['score'][0]} for item "
            f"{invalid['item_id'][0]})",
            where=_WHERE,
            fix="let the verifier return a share between 0 and 1 for every response",
        )
    repeated = evaluations.height - evaluations.select(*_ITEM, "arm").n_unique()
    if repeated:
        raise SelfimpError(
            f"{repeated} rows repeat an item of the same suite and arm",
            where=_WHERE,
            fix="make the items of a suite distinct; each counts once",
        )
    return evaluations
