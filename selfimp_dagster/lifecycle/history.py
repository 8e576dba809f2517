"""What earlier rounds reported: the only thing that decisions about the next round may look at."""

from collections.abc import Sequence

from selfimp_dagster.lifecycle.evaluation.continuation import RoundSummary
from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore


def read_history(store: ArtifactStore, keys: Sequence[RoundKey]) -> list[RoundSummary]:
    """The summaries of rounds that have an evaluation report, in the order of the keys."""
    return [read_report(store, key).summary for key in keys]
