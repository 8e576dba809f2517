"""Plays recorded episodes again, with what the policy said then: the same worlds, or where they differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import polars as pl

from selfimp_dagster.environments.episodes import Episode, replay
from selfimp_dagster.environments.protocol import find_environment
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.environments import recorded_episode
from selfimp_dagster.lifecycle.evaluation.report import ASSET
from selfimp_dagster.records import EPISODES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

_SHOWN = 120  # characters of a message


@dataclass(frozen=True)
class Replayed:
    """A recorded episode (a row of records.EPISODES) and where its replay first differs; none: nowhere."""

    row: dict[str, Any]
    difference: str | None


def recorded_episodes(store: ArtifactStore, key: RoundKey, beginning: str = "") -> pl.DataFrame:
    """The episodes of a round whose ids begin so, of both arms.

    Raises:
        SelfimpError: there is no report, it was altered, or it has no such episode.
    """
    artifact = store.open(key, ASSET)
    episodes = artifact.table("episodes", EPISODES) if artifact.has_table("episodes") else EPISODES.to_frame()
    found = episodes.filter(pl.col("episode_id").str.starts_with(beginning))
    if found.is_empty():
        raise SelfimpError(
            f"it has no episode {beginning}" if beginning else "it has no episodes",
            where=f"{key} {ASSET}",
            fix=f"`selfimp replay {key}` lists the episodes of the round"
            if not episodes.is_empty()
            else "give the campaign environments to play in: evaluation.environments",
        )
    return found


def replay_episodes(store: ArtifactStore, key: RoundKey, beginning: str = "") -> Iterator[Replayed]:
    """Replays the episodes of a round whose ids begin so, in the order in which they were recorded.

    Raises:
        SelfimpError: as `recorded_episodes`; or an environment is not there any more, or cannot be played on
            this machine.
    """
    for row in recorded_episodes(store, key, beginning).iter_rows(named=True):
        kind = find_environment(row["environment"])
        kind.harness()  # a machine that cannot play it says so, instead of failing in the episode
        parameters = kind.parameters.model_validate_json(row["parameters"])
        recorded = recorded_episode(row)
        now = replay(kind, parameters, recorded.seed, [turn.reply for turn in recorded.turns])
        yield Replayed(row, first_difference(recorded, now))


def first_difference(recorded: Episode, now: Episode) -> str | None:
    """Where two episodes first differ, in the order in which they were played; none: nowhere."""
    for place, (old, new) in enumerate(zip_longest(recorded.messages, now.messages), start=1):
        if old != new:
            return f"message {place}: recorded {_shown(old)}, now {_shown(new)}"
    for place, (turn, again) in enumerate(zip_longest(recorded.turns, now.turns), start=1):
        if turn != again:
            return f"turn {place}: recorded {turn}, now {again}"
    for field in ("end", "error", "outcome", "process"):
        old, new = getattr(recorded, field), getattr(now, field)
        if old != new:
            return f"{field}: recorded {old}, now {new}"
    return None


def _shown(message: dict[str, str] | None) -> str:
    text = repr(message["content"]) if message else "nothing"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
