"""Episodes: many are played in lock step, so that their next turns are sampled together; one is replayed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfimp_dagster.engines.base import Message
from selfimp_dagster.environments.protocol import Bounds, Environment, EnvironmentKind, Step
from selfimp_dagster.records import content_id

End = Literal["done", "turns", "invalid", "tokens", "error"]
"""Why an episode ended: nothing was left to do, a bound (see `Bounds`), or the environment raised."""

_ERROR_LENGTH = 500  # characters


@dataclass(frozen=True)
class Reply:
    """What the policy answered in a turn. `cut_off`: it did not end by itself within its tokens."""

    text: str
    cut_off: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Turn:
    """A turn that was played: the reply, and what it was worth (see `Step`)."""

    reply: Reply
    valid: bool
    progress: float


@dataclass(frozen=True)
class Episode:
    """An episode; `end` is none for one that a replay left under way.

    `messages` is the whole conversation: what the environment said as the user, what the policy said as the
    assistant. `outcome` and `process` are from 0 to 1, and null where the environment raised (`error`): such
    an episode says nothing about the policy. `process` is the mean progress of the turns.
    """

    episode_id: str
    seed: int
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]
    outcome: float | None
    process: float | None
    end: End | None
    error: str | None


Ask = Callable[[Sequence[tuple[str, tuple[Message, ...]]]], Sequence[Reply]]
"""Samples a reply to each of some conversations, given with the ids of their episodes."""


def episode_id(kind: EnvironmentKind, parameters: Bounds, seed: int) -> str:
    """The id of an episode, the same whoever plays it: what is played, and from which seed."""
    return content_id("episode", kind.name, parameters.model_dump(mode="json"), seed)


def play(kind: EnvironmentKind, parameters: Bounds, seeds: Sequence[int], ask: Ask) -> list[Episode]:
    """Plays an episode for each seed to its end, in the order of the seeds.

    Every turn of all that are under way is asked for at once. An empty reply or one that was cut off is an
    invalid action which the environment never sees. An environment that raises ends its own episode alone.
    """
    games = [_Game(kind, parameters, seed) for seed in seeds]
    while under_way := [game for game in games if game.end is None]:
        replies = ask([(game.episode_id, tuple(game.messages)) for game in under_way])
        for game, reply in zip(under_way, replies, strict=True):
            game.take(reply)
    return [game.ended() for game in games]


def replay(kind: EnvironmentKind, parameters: Bounds, seed: int, replies: Sequence[Reply]) -> Episode:
    """The episode that these replies lead through; of one that they do not end, what there is of it."""
    game = _Game(kind, parameters, seed)
    for reply in replies:
        if game.end is not None:
            break
        game.take(reply)
    return game.ended()


class _Game:
    """An episode under way."""

    def __init__(self, kind: EnvironmentKind, parameters: Bounds, seed: int) -> None:
        self.episode_id = episode_id(kind, parameters, seed)
        self.messages: list[Message] = []
        self.end: End | None = None
        self._parameters, self._seed = parameters, seed
        self._turns: list[Turn] = []
        self._outcome: float | None = None
        self._error: str | None = None
        try:
            self._world: Environment = kind.make(parameters)
            self._tell(self._world.reset(seed))
        except Exception as error:
            self._fail(error)

    def take(self, reply: Reply) -> None:
        """Plays a turn."""
        self.messages.append({"role": "assistant", "content": reply.text})
        try:
            step = self._step(reply)
        except Exception as error:
            self._turns.append(Turn(reply, valid=False, progress=0.0))
            self._fail(error)
            return
        self._turns.append(Turn(reply, step.valid, step.progress))
        self._tell(step.observation)
        self.end = self._ending(step, reply)
        if self.end is not None:
            try:
                self._outcome = _share(self._world.outcome())
            except Exception as error:
                self._fail(error)

    def ended(self) -> Episode:
        whole = self.end not in (None, "error")
        progress = [turn.progress for turn in self._turns]
        return Episode(
            episode_id=self.episode_id,
            seed=self._seed,
            messages=tuple(self.messages),
            turns=tuple(self._turns),
            outcome=self._outcome if whole else None,
            process=sum(progress) / len(progress) if whole else None,
            end=self.end,
            error=self._error,
        )

    def _step(self, reply: Reply) -> Step:
        if not reply.text.strip():
            return self._refused("You answered nothing.")
        if reply.cut_off:
            return self._refused("Your answer was too long and was cut off.")
        step = self._world.step(reply.text)
        _share(step.progress)
        return step

    def _refused(self, reason: str) -> Step:
        return Step(f"{reason} {self._world.reminder}", valid=False, progress=0.0, done=False)

    def _ending(self, step: Step, reply: Reply) -> End | None:
        if step.done:
            return "done"
        if sum(not turn.valid for turn in self._turns) >= self._parameters.most_invalid:
            return "invalid"
        if len(self._turns) >= self._parameters.turns:
            return "turns"
        if reply.prompt_tokens + reply.completion_tokens >= self._parameters.most_tokens:
            return "tokens"
        return None

    def _tell(self, observation: str) -> None:
        self.messages.append({"role": "user", "content": observation})

    def _fail(self, error: Exception) -> None:
        self.end, self._error = "error", f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"the environment gave the score {value}, which is not from 0 to 1")
    return float(value)
