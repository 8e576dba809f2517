"""What every environment is, and how one is registered under a name that campaigns use."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.sandbox.machine import machine_sandbox


class Bounds(BaseModel):
    """The bounds of an episode, which every environment has besides parameters of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: int = Field(default=10, ge=1, description="Turns after which an episode ends.")
    max_new_tokens: int = Field(default=16, ge=1, description="Tokens after which an action is cut off.")
    most_invalid: int = Field(default=3, ge=1, description="Invalid actions after which an episode ends.")
    most_tokens: int = Field(
        default=2048, ge=1, description="Tokens of the whole conversation after which an episode ends."
    )


@dataclass(frozen=True)
class Step:
    """What became of an action.

    `observation` is what the policy is told next, `valid` whether the action could be understood (one that
    could not changes nothing), `progress` from 0 to 1 what the turn was worth, `done` whether nothing is left
    to do.
    """

    observation: str
    valid: bool
    progress: float
    done: bool


class Environment(Protocol):
    """One world, played by one policy.

    Everything follows from the parameters, the seed and the actions: the same ones lead through the same
    observations to the same scores, so an episode can be replayed.
    """

    reminder: str
    """How an action is to be written, in a sentence: told again after an action that could not be read."""

    def reset(self, seed: int) -> str:
        """Begins an episode; what the policy is told first."""
        ...

    def step(self, action: str) -> Step:
        """Takes an action, any text whatever."""
        ...

    def outcome(self) -> float:
        """How well the episode went as it stands, from 0 to 1."""
        ...


@runtime_checkable
class Retold(Environment, Protocol):
    """An environment whose parameters hold the goal: an episode can be told as one towards another goal."""

    def reached(self) -> Bounds | None:
        """The parameters under which the state that was reached is the goal; none where it can be none."""
        ...


@dataclass(frozen=True)
class EnvironmentKind:
    """A registered environment.

    `make` builds one from its parameters. `version` is raised whenever texts or scores change; `packages` are
    those that a score hangs on. `runs_programs` says that actions are programs, run in the sandbox.
    """

    name: str
    make: Callable[[Any], Environment]
    parameters: type[Bounds]
    version: int
    packages: tuple[str, ...]
    runs_programs: bool

    @property
    def summary(self) -> str:
        return (self.make.__doc__ or "").strip().splitlines()[0]

    def harness(self) -> dict[str, Any]:
        """All that can move a score of this environment besides its parameters, the policy and its engine.

        Raises:
            SelfimpError: it runs programs, and no sandbox holds on this machine.
        """
        found: dict[str, Any] = {"environment": self.name, "version": self.version}
        found |= {package: version(package) for package in self.packages}
        if self.runs_programs:
            found |= {"sandbox": machine_sandbox().level, "python": platform.python_version()}
        return found


_KINDS: dict[str, EnvironmentKind] = {}
_Make = TypeVar("_Make", bound=Callable[[Any], Environment])


def environment(
    name: str,
    *,
    parameters: type[Bounds],
    version: int,
    packages: tuple[str, ...] = (),
    runs_programs: bool = False,
) -> Callable[[_Make], _Make]:
    """Registers the decorated class as the environment of that name.

    Raises:
        ValueError: another one has it.
    """

    def register(make: _Make) -> _Make:
        if name in _KINDS:
            raise ValueError(f"the environment {name!r} is already {_KINDS[name].make}")
        _KINDS[name] = EnvironmentKind(name, make, parameters, version, packages, runs_programs)
        return make

    return register


def find_environment(name: str) -> EnvironmentKind:
    """The environment of that name.

    Raises:
        SelfimpError: there is none.
    """
    if name not in _KINDS:
        raise SelfimpError(
            f"there is no environment {name!r}",
            where="evaluation.environments",
            fix=f"choose one of: {', '.join(sorted(_KINDS))}",
        )
    return _KINDS[name]


def all_environments() -> list[EnvironmentKind]:
    """Every registered environment, by name."""
    return sorted(_KINDS.values(), key=lambda kind: kind.name)
