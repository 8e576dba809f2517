"""Episodes of the corpus, judged by replaying them, and the reward `episode_return`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.environments.episodes import Episode, Reply, replay
from selfimp_dagster.environments.protocol import find_environment
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.records import REWARDS, canonical_json, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.verifiers import EPISODE

EPISODE_RETURN = "episode_return"


@dataclass(frozen=True)
class Played:
    """A turn of a replayed episode: which one, counted from 0."""

    episode: Episode
    turn: int

    @property
    def fault(self) -> str | None:
        """Why the turn cannot be judged; none where it can."""
        episode = self.episode
        if episode.error is not None:
            return f"the environment raised {episode.error}"
        if episode.end is None or self.turn >= len(episode.turns):
            return "the corpus does not hold the whole episode"
        return None

    @property
    def valid(self) -> bool:
        """Whether the turn's action could be understood."""
        return self.episode.turns[self.turn].valid

    def evidence(self) -> str:
        """What became of the episode and of the turn, as JSON."""
        turn = self.episode.turns[self.turn]
        return canonical_json(
            {
                "episode": self.episode.episode_id,
                "turn": self.turn + 1,
                "turns": len(self.episode.turns),
                "valid": turn.valid,
                "progress": turn.progress,
                "outcome": self.episode.outcome,
                "process": self.episode.process,
                "end": self.episode.end,
            }
        )


def replayed(tasks: pl.DataFrame, samples: pl.DataFrame) -> dict[str, Played]:
    """Every sample of a turn in an environment with its episode, which is played again for that.

    The turns of an episode are samples, each the parent of the next; the task of a turn names the
    environment, its parameters and the seed.
    """
    entries = dict(tasks.filter(verifier=EPISODE).select("task_id", "entry").iter_rows())
    turns = {
        row["sample_id"]: row for row in samples.sort("sample_id").to_dicts() if row["task_id"] in entries
    }
    led_to = {row["parent_sample_id"] for row in turns.values()}
    found: dict[str, Played] = {}
    for last in (id_ for id_ in turns if id_ not in led_to):
        chain = _chain(last, turns)
        given = json.loads(entries[chain[0]["task_id"]])
        kind = find_environment(given["environment"])
        parameters = kind.parameters.model_validate(given["parameters"])
        episode = replay(kind, parameters, given["seed"], [as_reply(row) for row in chain])
        found |= {row["sample_id"]: Played(episode, number) for number, row in enumerate(chain)}
    return found


def as_reply(row: Mapping[str, Any]) -> Reply:
    """A sample (a row of records.SAMPLES) as what the policy replied in an episode."""
    return Reply(
        text=row["response"],
        cut_off=row["finish_reason"] == "length",
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
    )


def _chain(last: str, turns: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    chain = []
    at: str | None = last
    while at is not None and at in turns:
        chain.append(turns[at])
        at = turns[at]["parent_sample_id"]
    return chain[::-1]


class EpisodeReturn(BaseModel):
    """Parameters of `episode_return`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    invalid: float = Field(
        default=0.2, ge=0, description="Taken off for each turn whose action could not be understood."
    )


@method("reward", EPISODE_RETURN, parameters=EpisodeReturn, section="2.3", paper="arXiv:2410.02089")
def episode_return(context: RewardContext, parameters: EpisodeReturn) -> pl.DataFrame:
    """What an episode still brings from a turn on: 1 or -1 at its end, less for turns that made no sense.

    In: the turns of episodes; signal: the environment, in which each episode is played again; out: the sum of
    RLEF's rewards from the turn on (kind V): outcome 1 is worth 1 and any other -1, and each turn without a
    valid action costs `invalid`. The paper takes a KL penalty off as well and subtracts a learnt value; here
    that is the update's affair. Samples that are no turns of an episode have no row.
    """
    rows = []
    for id_, played in replayed(context.tasks, context.samples).items():
        told = {"sample_id": id_, "reward": EPISODE_RETURN, "kind": "V"}
        if (fault := played.fault) is not None:
            rows.append({**told, "value": None, "confidence": 0.0, "evidence": fault})
            continue
        later = played.episode.turns[played.turn :]
        value = (1.0 if played.episode.outcome == 1 else -1.0) - parameters.invalid * sum(
            not turn.valid for turn in later
        )
        rows.append({**told, "value": value, "confidence": 1.0, "evidence": played.evidence()})
    return frame(rows, REWARDS)
