"""How the episodes of one arm are sampled: in lock step, greedily, and never twice."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from home import tiny_campaign

from selfimp_dagster.campaign import Campaign, parse_campaign
from selfimp_dagster.engines.base import Completion, Request, Sampling
from selfimp_dagster.environments import protocol
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.environments import (
    arm_episodes,
    evaluation_seeds,
    require_environments,
    sample_episode,
    summarised,
)
from selfimp_dagster.lifecycle.sampling import DurableSampler
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import EPISODES


class Walker:
    """An engine that says "right" and "down" by turns, and stops the run when it is told to."""

    policy_hash = "walker"

    def __init__(self, turns_until_killed: int = 99) -> None:
        self.batches: list[list[str]] = []
        self.sampling: set[Sampling] = set()
        self._left = turns_until_killed

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Completion]]:
        if not requests:
            return
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self.batches.append([request.request_id for request in requests])
        self.sampling.add(sampling)
        yield [
            Completion(r.request_id, ("right", "down")[len(r.messages) // 2 % 2], 7, 2, -0.1, "stop")
            for r in requests
        ]

    def describe(self) -> dict[str, Any]:
        return {"engine": "walker"}


def _campaign(*choices: dict[str, Any]) -> Campaign:
    return parse_campaign(tiny_campaign(Path("model")) | {"evaluation": {"environments": choices}}, "here")


def _played(
    engine: Walker,
    campaign: Campaign,
    folder: Path,
    earlier: pl.DataFrame | None = None,
    arm: str = "candidate",
) -> pl.DataFrame:
    sampler = DurableSampler(engine, "walker", "tiny/0000", folder, LogProgress(lambda line: None))
    before = EPISODES.to_frame() if earlier is None else earlier
    return arm_episodes(sampler, campaign, arm, "walker", engine.describe(), before)


_LAKES = _campaign({"environment": "frozen_lake", "episodes": 5, "turns": 4})


def test_the_next_turns_of_all_live_episodes_are_sampled_at_once_and_greedily(tmp_path: Path) -> None:
    engine = Walker()
    episodes = _played(engine, _LAKES, tmp_path)
    longest = episodes["turns"].max()
    alive = [episodes.filter(pl.col("turns") > turn).height for turn in range(4)]
    assert [len(batch) for batch in engine.batches] == [count for count in alive if count]
    assert len(engine.batches) == longest
    assert engine.sampling == {Sampling(max_new_tokens=16, temperature=0)}
    assert episodes["seed"].to_list() == evaluation_seeds(_LAKES.seed, _LAKES.evaluation.environments[0])
    assert episodes["prompt_tokens"].to_list() == [7 * turns for turns in episodes["turns"]]


def test_an_evaluation_that_was_killed_goes_on_at_the_turn_where_it_was(tmp_path: Path) -> None:
    whole = _played(Walker(), _LAKES, tmp_path / "whole")
    killed, resumed = Walker(turns_until_killed=2), Walker()
    with pytest.raises(KeyboardInterrupt):
        _played(killed, _LAKES, tmp_path / "killed")
    assert _played(resumed, _LAKES, tmp_path / "killed").equals(whole)
    drawn = [id_ for engine in (killed, resumed) for batch in engine.batches for id_ in batch]
    assert len(drawn) == len(set(drawn)) == whole["turns"].sum()


def test_what_the_same_weights_played_under_the_same_harness_is_taken_over(tmp_path: Path) -> None:
    first = _played(Walker(), _LAKES, tmp_path / "first")
    engine = Walker()
    again = _played(engine, _LAKES, tmp_path / "again", earlier=first, arm="incumbent")
    assert engine.batches == []
    assert again["reused"].all()
    same = [column for column in EPISODES if column not in ("arm", "reused")]
    assert again.select(same).equals(first.select(same))
    _played(engine, _LAKES, tmp_path / "other", first.with_columns(fingerprint=pl.lit("another harness")))
    assert sum(map(len, engine.batches)) == first["turns"].sum()


def test_an_episode_whose_environment_raised_is_played_again(tmp_path: Path) -> None:
    first = _played(Walker(), _LAKES, tmp_path / "first")
    broken = first.with_columns(
        ending=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("error")).otherwise("ending")
    )
    engine = Walker()
    again = _played(engine, _LAKES, tmp_path / "again", earlier=broken)
    assert len(engine.batches[0]) == 1
    assert again["reused"].sum() == 4
    assert again.sort("episode_id")["outcome"].equals(first.sort("episode_id")["outcome"])


def test_episodes_are_summed_up_and_one_of_the_longest_is_shown(tmp_path: Path) -> None:
    taxi = {"environment": "taxi", "episodes": 2, "turns": 3, "most_invalid": 2}
    episodes = _played(Walker(), _campaign(taxi, {"environment": "frozen_lake", "episodes": 3}), tmp_path)
    summary = {row["environment"]: row for row in summarised(episodes).iter_rows(named=True)}
    invalid = {"environment": "taxi", "arm": "candidate", "episodes": 2, "outcome": 0.0, "process": 0.0}
    assert summary["taxi"] == {**invalid, "turns": 2.0, "invalid": 1.0, "errors": 0}
    assert summary["frozen_lake"]["invalid"] == 0
    shown = sample_episode(episodes)
    assert shown is not None
    assert shown["turns"] == episodes["turns"].max()
    assert sample_episode(EPISODES.to_frame()) is None


def test_a_campaign_that_needs_a_sandbox_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> None:
        raise SelfimpError("nothing holds", where="sandbox", fix="install something")

    monkeypatch.setattr(protocol, "machine_sandbox", none)
    require_environments(_LAKES)
    with pytest.raises(SelfimpError, match="nothing holds"):
        require_environments(_campaign({"environment": "code", "episodes": 1}))
