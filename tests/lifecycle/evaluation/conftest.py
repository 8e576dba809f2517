"""Evaluation rows for the tests of this folder."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from selfimp_dagster.records import EVALUATIONS, TWINS, frame

MakeRows = Callable[..., pl.DataFrame]


@pytest.fixture(scope="session")
def make_rows() -> MakeRows:
    """Builds the evaluations of both arms on items of one suite and skill."""

    def make(
        incumbent: Sequence[float], candidate: Sequence[float], suite: str = "anchor", skill: str = "sums"
    ) -> pl.DataFrame:
        return frame(
            (
                {
                    "item_id": f"{suite}-{skill}-{number:04d}",
                    "suite": suite,
                    "skill": skill,
                    "arm": arm,
                    "policy_hash": f"weights of the {arm}",
                    "response": "",
                    "score": float(score),
                    "flags": [],
                    "evidence": None,
                    "prompt_tokens": 1,
                    "completion_tokens": 1,
                    "fingerprint": "harness",
                    "reused": False,
                }
                for arm, scores in (("incumbent", incumbent), ("candidate", candidate))
                for number, score in enumerate(scores)
            ),
            EVALUATIONS,
        )

    return make


@pytest.fixture(scope="session")
def make_twins() -> MakeRows:
    """Builds the answers of both arms to items and their twins, each arm as (scores of items, of twins)."""

    def make(
        incumbent: tuple[Sequence[float], Sequence[float]],
        candidate: tuple[Sequence[float], Sequence[float]],
        skill: str = "sums",
        fingerprint: str = "harness",
    ) -> pl.DataFrame:
        return frame(
            (
                {
                    **dict.fromkeys(TWINS),
                    "twin_id": f"twin-{skill}-{number:04d}",
                    "item_id": f"anchor-{skill}-{number:04d}",
                    "skill": skill,
                    "transformation": "renamed" if number % 2 else "numbers",
                    "arm": arm,
                    "item_score": float(item),
                    "score": float(twin),
                    "fingerprint": fingerprint,
                }
                for arm, scores in (("incumbent", incumbent), ("candidate", candidate))
                for number, (item, twin) in enumerate(zip(*scores, strict=True))
            ),
            TWINS,
        )

    return make
