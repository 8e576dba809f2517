"""Acting in environments (survey 2.3): episodes, and episodes told as ones towards what they reached."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.environments.episodes import Episode, Reply, play, replay
from selfimp_dagster.environments.protocol import Bounds, EnvironmentKind, Retold, find_environment
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.proposals import (
    Known,
    Origin,
    Proposal,
    acquired_task,
    fault_of,
    proposal_row,
)
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.lifecycle.rewards.episodes import as_reply
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import PROPOSALS, SAMPLES, TASKS, content_id, derive_seed, frame, task_id
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.verifiers import EPISODE

_MOST_SEEDS = 50
"""Seeds that are tried for each episode until one opens with what evaluation does not ask."""


class World(BaseModel):
    """Parameters of methods that act in an environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: str = Field(default="frozen_lake", description="The name of the environment.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the environment that differ from its defaults."
    )
    temperature: float = Field(default=1.0, ge=0, description="How actions are drawn; 0 is greedy.")

    @model_validator(mode="after")
    def _environment_can_be_made(self) -> Self:
        try:
            self.kind.parameters.model_validate(self.settings)
        except SelfimpError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def kind(self) -> EnvironmentKind:
        """The environment.

        Raises:
            SelfimpError: there is none of that name.
        """
        return find_environment(self.environment)

    @property
    def bounds(self) -> Bounds:
        """Its parameters."""
        return self.kind.parameters.model_validate(self.settings)


class Episodes(World):
    """Parameters of `episodes`."""

    attempts: int = Field(default=2, ge=1, description="Episodes from each start, which form a group.")


@method("acquisition", "episodes", parameters=Episodes, section="2.3", paper="arXiv:2410.02089")
def episodes(context: AcquisitionContext, parameters: Episodes) -> Corpus:
    """The incumbent acts in an environment, turn by turn, and is told what came of it (RLEF, text worlds).

    In: as many starts as the round has tasks, none of which evaluation plays; signal: the environment, which
    answers every action and judges the end (hidden tests in `code`, the goal in the text worlds); out: each
    turn as a task, whose chat is the conversation so far, with the action as its sample (generation I), the
    child of the one before it. The world is no model's work, so the tasks have depth 0. Replies that are
    empty, cut off or no action are answered by the environment and are worth nothing. RLEF trains with PPO on
    such episodes of competitive programming; here the update is the recipe's.
    """
    seeds = _starts(context, parameters)
    tasks, samples = [TASKS.to_frame()], [SAMPLES.to_frame()]
    for attempt in range(parameters.attempts):
        for played in _play(context, parameters, seeds, attempt):
            tasks.append(_turn_tasks(played.episode, parameters, parameters.bounds, "episodes"))
            samples.append(played.samples)
    told = pl.concat(tasks).unique("task_id", keep="first", maintain_order=True)
    return Corpus(told, pl.concat(samples))


class BackwardConstruction(World):
    """Parameters of `backward_construction`."""

    per_episode: int = Field(
        default=2, ge=1, description="Goals that are taken from an episode at most, those reached last first."
    )
    least_process: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the turns that must have brought the new goal nearer.",
    )

    @model_validator(mode="after")
    def _goals_can_be_told(self) -> Self:
        if not isinstance(self.kind.make(self.bounds), Retold):
            raise ValueError(f"{self.environment} has no goal that could be another")
        return self


@method(
    "acquisition",
    "backward_construction",
    parameters=BackwardConstruction,
    section="2.3",
    paper="arXiv:2501.10893",
)
def backward_construction(context: AcquisitionContext, parameters: BackwardConstruction) -> Corpus:
    """An episode becomes the solution of the task that it really fulfils (Learn-by-Interact).

    In: episodes that the incumbent plays, whatever comes of them; signal: the states that they reach; out:
    for some of these states the world with that state as its goal, and the turns up to there as its
    solution, each a task with the action as its sample (generation R: the chat that it was drawn with, in
    `messages`, had another goal). The new episode is played again to check that it ends at its goal, and one
    that wanders is rejected. The paper has a model word the new instruction and others judge it; here the
    environment words it, and replaying judges.
    """
    seeds = _starts(context, parameters)
    tasks, samples, drafts = [TASKS.to_frame()], [SAMPLES.to_frame()], [SAMPLES.to_frame()]
    rows: list[dict[str, Any]] = []
    known = Known(context.written["prompt"])
    for played in _play(context, parameters, seeds, 0):
        drafts.append(played.samples)
        for bounds, turns in _goals(played, parameters):
            found = _retold(played, bounds, turns, parameters, known, context)
            rows.append(proposal_row(found.proposal, len(rows), found.task_id))
            tasks.append(found.tasks)
            samples.append(found.samples)
    told = pl.concat(tasks).unique("task_id", keep="first", maintain_order=True)
    return Corpus(told, pl.concat(samples), frame(rows, PROPOSALS), pl.concat(drafts))


@dataclass(frozen=True)
class _Played:
    """An episode with the samples (records.SAMPLES) that are its turns."""

    episode: Episode
    samples: pl.DataFrame


@dataclass(frozen=True)
class _Retold:
    """What became of an episode that was told as one towards another goal."""

    proposal: Proposal
    task_id: str | None
    tasks: pl.DataFrame
    samples: pl.DataFrame


def _starts(context: AcquisitionContext, parameters: World) -> list[int]:
    """The seeds of as many episodes as the round has tasks, with openings that evaluation does not ask."""

    def free() -> Iterator[int]:
        world = parameters.kind.make(parameters.bounds)
        for number in range(context.size * _MOST_SEEDS):
            seed = derive_seed("acquisition episode", context.seed, parameters.environment, number)
            opening = _as_prompt([{"role": "user", "content": world.reset(seed)}])
            if context.rules.reserved(opening) is None:
                yield seed

    seeds = list(islice(free(), context.size))
    if not seeds:
        raise SelfimpError(
            f"evaluation may ask every opening of {parameters.environment} that was tried",
            where="recipe.acquisition",
            fix="choose settings with more different openings",
        )
    return seeds


def _play(
    context: AcquisitionContext, parameters: World, seeds: Sequence[int], attempt: int
) -> list[_Played]:
    kind, bounds = parameters.kind, parameters.bounds
    sampling = Sampling(max_new_tokens=bounds.max_new_tokens, temperature=parameters.temperature)
    turns: dict[str, list[pl.DataFrame]] = {}

    def ask(conversations: Sequence[tuple[str, tuple[Message, ...]]]) -> list[Reply]:
        requests = []
        for id_, chat in conversations:
            before = turns.setdefault(id_, [])
            parent = before[-1]["sample_id"].item() if before else None
            seed = derive_seed(context.seed, id_, attempt, len(before))
            requests.append(SampleRequest(_turn_id(kind, chat), chat, seed, parent))
        label = f"{kind.name}, attempt {attempt + 1}"
        drawn = context.sample(requests, sampling, generation="I", label=label)
        for (id_, _), row in zip(conversations, drawn.iter_slices(1), strict=True):
            turns[id_].append(row)
        return [as_reply(row) for row in drawn.iter_rows(named=True)]

    played = play(kind, bounds, seeds, ask)
    return [
        _Played(episode, pl.concat([SAMPLES.to_frame(), *turns.get(episode.episode_id, [])]))
        for episode in played
    ]


def _goals(played: _Played, parameters: BackwardConstruction) -> list[tuple[Bounds, int]]:
    """Other goals that the episode reached, the last first, with the turns that it took to each."""
    world = parameters.kind.make(parameters.bounds)
    assert isinstance(world, Retold)
    world.reset(played.episode.seed)
    found: dict[str, tuple[Bounds, int]] = {}
    for number, turn in enumerate(played.episode.turns, start=1):
        if not turn.valid:
            continue
        step = world.step(turn.reply.text)
        bounds = world.reached()
        if bounds is not None and not (step.done and world.outcome() == 1):
            found.setdefault(bounds.model_dump_json(), (bounds, number))
    return list(found.values())[::-1][: parameters.per_episode]


def _retold(
    played: _Played,
    bounds: Bounds,
    turns: int,
    parameters: BackwardConstruction,
    known: Known,
    context: AcquisitionContext,
) -> _Retold:
    valid = [
        (row, as_reply(row))
        for row, turn in zip(played.samples.iter_rows(named=True), played.episode.turns[:turns], strict=False)
        if turn.valid
    ]
    episode = replay(parameters.kind, bounds, played.episode.seed, [reply for _, reply in valid])
    opening = _as_prompt(episode.messages[:1])
    last = valid[-1][0]["sample_id"]
    proposal = Proposal(
        method="backward_construction",
        skill=parameters.environment,
        prompt=opening,
        origins=(Origin(last, 1),),
        verifier=EPISODE,
        draft_id=last,
        written=False,
    )
    if episode.outcome != 1:
        proposal = proposal.rejected(Reason.EXECUTION, f"played again it ended with {episode.outcome}")
    elif (process := episode.process or 0.0) < parameters.least_process:
        proposal = proposal.rejected(Reason.DETOUR, f"{process:.2f} of {len(episode.turns)} turns")
    elif (fault := fault_of(proposal, context.rules) or known.fault(opening)) is not None:
        proposal = proposal.rejected(*fault)
    if proposal.fault is not None:
        return _Retold(proposal, None, TASKS.to_frame(), SAMPLES.to_frame())
    known.add(opening)
    tasks = _turn_tasks(episode, parameters, bounds, "backward_construction", parents=[last], depth=1)
    samples = _reused(tasks["task_id"].to_list(), [row for row, _ in valid])
    return _Retold(proposal, tasks["task_id"][0], tasks, samples)


def _reused(tasks: Sequence[str], drawn: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Samples of another episode as samples of these turns."""
    rows: list[dict[str, Any]] = []
    for task, row in zip(tasks, drawn, strict=False):
        parent = rows[-1]["sample_id"] if rows else None
        rows.append(
            {
                **row,
                "sample_id": content_id("retold", row["sample_id"], task),
                "task_id": task,
                "generation": "R",
                "parent_sample_id": parent,
            }
        )
    return frame(rows, SAMPLES)


def _turn_tasks(
    episode: Episode,
    parameters: World,
    bounds: Bounds,
    source: str,
    parents: Sequence[str] = (),
    depth: int = 0,
) -> pl.DataFrame:
    """Every turn of an episode as a task (records.TASKS), in their order."""
    entry = {
        "environment": parameters.environment,
        "parameters": bounds.model_dump(mode="json"),
        "seed": episode.seed,
    }
    chats = [episode.messages[: 2 * number + 1] for number in range(len(episode.turns))]
    return frame(
        (
            acquired_task(
                source=source,
                skill=parameters.environment,
                prompt=_as_prompt(chat),
                parents=parents,
                depth=depth,
                verifier=EPISODE,
                entry=entry,
                chat=chat,
            )
            for chat in chats
        ),
        TASKS,
    )


def _turn_id(kind: EnvironmentKind, chat: Sequence[Message]) -> str:
    return task_id(kind.name, _as_prompt(chat), None)


def _as_prompt(chat: Sequence[Message]) -> str:
    """A conversation as one text, by which turns are told apart."""
    return "\n\n".join(message["content"] for message in chat).strip()
