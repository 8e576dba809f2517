"""Evaluation rows for the tests of this folder."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from selfimp_dagster.records import EVALUATIONS, frame

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
