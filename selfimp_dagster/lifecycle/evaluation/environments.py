"""Episodes of both arms in the campaign's environments, from the same seeds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from selfimp_dagster.campaign import Campaign, EnvironmentChoice
from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.environments.episodes import Episode, Reply, Turn, episode_id, play
from selfimp_dagster.environments.protocol import Bounds, EnvironmentKind
from selfimp_dagster.lifecycle.evaluation.fingerprint import fingerprint
from selfimp_dagster.lifecycle.rewards.episodes import as_reply
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.records import EPISODES, canonical_json, derive_seed, frame


def require_environments(campaign: Campaign) -> None:
    """Makes sure that all environments of the campaign can be played on this machine.

    Raises:
        SelfimpError: one runs programs that the policy writes, and no sandbox holds here.
    """
    for choice in campaign.evaluation.environments:
        choice.resolve()[0].harness()


def evaluation_seeds(campaign_seed: int, choice: EnvironmentChoice) -> list[int]:
    """The seeds of an environment's episodes: the same in every round, and used by evaluation alone."""
    return [
        derive_seed("evaluation episode", campaign_seed, choice.environment, number)
        for number in range(choice.episodes)
    ]


def evaluation_openings(campaign: Campaign) -> Iterator[str]:
    """What the evaluation's episodes begin with: no episode that is trained on may begin so."""
    for choice in campaign.evaluation.environments:
        kind, parameters = choice.resolve()
        world = kind.make(parameters)
        for seed in evaluation_seeds(campaign.seed, choice):
            yield world.reset(seed)


def arm_episodes(
    sampler: DurableSampler,
    campaign: Campaign,
    arm: str,
    policy_hash: str,
    engine: Mapping[str, Any],
    earlier: pl.DataFrame,
) -> pl.DataFrame:
    """All episodes of one arm (records.EPISODES), played greedily.

    An evaluation that was killed goes on where it was: the sampler knows what was said, and the worlds
    follow from that.

    Args:
        sampler: draws from the weights of the arm, whose hash is `policy_hash`.
        engine: what the sampler's engine says of itself.
        earlier: episodes of earlier rounds; what the same weights played there under the same harness is
            taken over, unless the environment raised.
    """
    tables = [EPISODES.to_frame()]
    for choice in campaign.evaluation.environments:
        kind, parameters = choice.resolve()
        sampling = Sampling(max_new_tokens=parameters.max_new_tokens, temperature=0)
        print_ = fingerprint(
            {
                **kind.harness(),
                "parameters": parameters.model_dump(mode="json"),
                "engine": dict(engine),
                "sampling": sampling.model_dump(),
            }
        )
        ids = {episode_id(kind, parameters, seed): seed for seed in evaluation_seeds(campaign.seed, choice)}
        known = earlier.filter(
            pl.col("policy_hash") == policy_hash,
            pl.col("fingerprint") == print_,
            pl.col("episode_id").is_in(list(ids)),
            pl.col("ending") != "error",
        ).unique("episode_id", keep="first", maintain_order=True)
        missing = [seed for id_, seed in ids.items() if id_ not in set(known["episode_id"])]
        played = _play(sampler, kind, parameters, missing, sampling, arm)
        same = {"arm": arm, "policy_hash": policy_hash, "fingerprint": print_}
        tables.append(known.with_columns(pl.lit(arm).alias("arm"), pl.lit(True).alias("reused")))
        tables.append(frame(_rows(kind, parameters, played, same), EPISODES))
    return pl.concat(tables)


def _play(
    sampler: DurableSampler,
    kind: EnvironmentKind,
    parameters: Bounds,
    seeds: Sequence[int],
    sampling: Sampling,
    arm: str,
) -> list[Episode]:
    if not seeds:
        return []
    label = f"{kind.name} of {arm}"
    with sampler.one_bar(label, total=len(seeds) * parameters.turns, unit="turns") as bar:

        def ask(conversations: Sequence[tuple[str, tuple[Message, ...]]]) -> list[Reply]:
            requests = [SampleRequest(id_, messages, 0) for id_, messages in conversations]
            drawn = sampler.sample(requests, sampling, generation="SE", label=label)
            bar.advance(len(requests))
            return [as_reply(row) for row in drawn.iter_rows(named=True)]

        episodes = play(kind, parameters, seeds, ask)
        bar.advance(sum(parameters.turns - len(episode.turns) for episode in episodes))  # not needed
    return episodes


def _rows(
    kind: EnvironmentKind, parameters: Bounds, episodes: Sequence[Episode], same: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for episode in episodes:
        replies = [turn.reply for turn in episode.turns]
        yield {
            "episode_id": episode.episode_id,
            "environment": kind.name,
            "parameters": canonical_json(parameters.model_dump(mode="json")),
            "seed": episode.seed,
            "turns": len(episode.turns),
            "outcome": episode.outcome,
            "process": episode.process,
            "ending": episode.end,
            "error": episode.error,
            "messages": list(episode.messages),
            "steps": [
                {
                    "valid": turn.valid,
                    "progress": turn.progress,
                    "cut_off": turn.reply.cut_off,
                    "prompt_tokens": turn.reply.prompt_tokens,
                    "completion_tokens": turn.reply.completion_tokens,
                }
                for turn in episode.turns
            ],
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
            "reused": False,
            **same,
        }


def recorded_episode(row: Mapping[str, Any]) -> Episode:
    """The episode that a row of records.EPISODES holds."""
    said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    turns = tuple(
        Turn(
            Reply(text, step["cut_off"], step["prompt_tokens"], step["completion_tokens"]),
            step["valid"],
            step["progress"],
        )
        for text, step in zip(said, row["steps"], strict=True)
    )
    return Episode(
        episode_id=row["episode_id"],
        seed=row["seed"],
        messages=tuple(row["messages"]),
        turns=turns,
        outcome=row["outcome"],
        process=row["process"],
        end=row["ending"],
        error=row["error"],
    )


EPISODE_SUMMARY = pl.Schema(
    {
        "environment": pl.String,
        "arm": pl.String,
        "episodes": pl.Int64,
        "outcome": pl.Float64,  # means over the episodes whose environment did not raise
        "process": pl.Float64,
        "turns": pl.Float64,
        "invalid": pl.Float64,  # share of the turns
        "errors": pl.Int64,
    }
)


def summarised(episodes: pl.DataFrame) -> pl.DataFrame:
    """One row for each environment and arm (EPISODE_SUMMARY), from records.EPISODES."""
    valid = pl.col("steps").list.eval(pl.element().struct.field("valid"))
    return (
        episodes.sort("episode_id")
        .group_by("environment", "arm")
        .agg(
            pl.len().alias("episodes"),
            pl.mean("outcome", "process"),
            pl.col("turns").mean(),
            (1 - valid.list.sum().sum() / pl.col("turns").sum()).alias("invalid"),
            pl.col("error").is_not_null().sum().alias("errors"),
        )
        .sort("environment", "arm", descending=[False, True])
        .cast(EPISODE_SUMMARY)
    )


def sample_episode(episodes: pl.DataFrame) -> dict[str, Any] | None:
    """An episode to look at (a row of records.EPISODES): one of the candidate's longest, if it played any."""
    longest = episodes.filter(pl.col("arm") == "candidate").sort(
        ["turns", "episode_id"], descending=[True, False]
    )
    return None if longest.is_empty() else longest.row(0, named=True)
