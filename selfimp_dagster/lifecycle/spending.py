"""The budget while a round runs: a stage ends when it is spent, not only the campaign after the round."""

import time
from collections.abc import Callable
from pathlib import Path

from selfimp_dagster.campaign import SUFFIX, load_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.continuation import Budget
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

_START, _REPORT = "incumbent_policy", "eval_report"


class BudgetSwitch:
    """Asked by every long loop as it advances, with the tokens that it read and generated since.

    Spent is what the reports of the line say, what the finished stages of the round took, and this stage
    since it began. Tokens of samples that an attempt which was ended had drawn count, its seconds are not
    known. What training reads counts when it is done.
    """

    def __init__(
        self,
        store: ArtifactStore,
        campaigns: Path,
        key: RoundKey,
        stage: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key, self._stage, self._clock, self._started = key, stage, clock, clock()
        self._budget = _budget(store, campaigns, key)
        self._tokens, self._seconds = 0, 0.0
        if self._budget != Budget() and store.has(key, _START):
            self._tokens, self._seconds = _spent(store, key, stage)

    def look(self, tokens: int = 0) -> None:
        """Nothing, as long as the budget lasts.

        Raises:
            SelfimpError: it is spent, with what was spent on it.
        """
        self._tokens += tokens
        self._refuse("tokens", self._tokens, self._budget.tokens)
        self._refuse("seconds", self._seconds + self._clock() - self._started, self._budget.seconds)

    def _refuse(self, unit: str, spent: float, limit: float | None) -> None:
        if limit is not None and spent > limit:
            raise SelfimpError(
                f"the budget is spent: {spent:,.0f} of {limit:,.0f} {unit}, in the midst of the round",
                where=f"{self._key} {self._stage}",
                fix=f"raise continuation.budget.{unit} and run the round again: it goes on where it stopped; "
                "or leave it, nothing complete was lost",
            )


def _budget(store: ArtifactStore, campaigns: Path, key: RoundKey) -> Budget:
    """The budget as the campaign file says it now, so that it can be raised for a round that it ended.

    If the file cannot be read, what the round was started with.
    """
    try:
        return load_campaign(campaigns / f"{key.campaign}{SUFFIX}").continuation.budget
    except SelfimpError:
        if not store.has(key, _START):
            return Budget()
        recorded = store.open(key, _START).json("policy")
        return Budget.model_validate(recorded["campaign"]["continuation"].get("budget", {}))


def _spent(store: ArtifactStore, key: RoundKey, stage: str) -> tuple[int, float]:
    """Tokens and seconds of the line before the stage, as far as its artifacts can be read."""
    ancestors = map(RoundKey.parse, store.open(key, _START).json("policy")["ancestors"])
    costs = [
        cost
        for ancestor in ancestors
        if store.has(ancestor, _REPORT)
        for cost in store.manifest(ancestor, _REPORT).measurements["stages"].values()
    ]
    before = ("generated_corpus", "selected_subset", "checkpoint", "refined_outputs", _REPORT)
    made = before[: before.index(stage)] if stage in before else ()
    costs += [store.manifest(key, asset).measurements for asset in made if store.has(key, asset)]
    return sum(cost["tokens"] for cost in costs), sum(cost["seconds"] for cost in costs)
