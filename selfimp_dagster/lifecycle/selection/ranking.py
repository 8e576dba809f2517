"""What steps that rank rows have in common: who is among the best, and the frame that says so."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS
from selfimp_dagster.records import canonical_json, frame


class Fate(NamedTuple):
    """What a step says of one row; `score` is none where there was nothing to score."""

    score: float | None
    kept: bool
    reason: str
    evidence: Mapping[str, object]


def judgements(rows: pl.DataFrame, fates: Iterable[Fate]) -> pl.DataFrame:
    """The fates of the rows, in their order, in the schema of JUDGEMENTS."""
    return frame(
        (
            {
                "sample_id": sample_id,
                "score": fate.score,
                "kept": fate.kept,
                "reason": fate.reason,
                "evidence": canonical_json(fate.evidence),
            }
            for sample_id, fate in zip(rows["sample_id"], fates, strict=True)
        ),
        JUDGEMENTS,
    )


def highest(scores: Sequence[float | None], share: float) -> set[int]:
    """The places of the highest scores: that share of all that have one, at least one; ties go by
    place."""
    scored = [(-score, place) for place, score in enumerate(scores) if score is not None]
    return {place for _, place in sorted(scored)[: max(1, round(share * len(scored)))]}
