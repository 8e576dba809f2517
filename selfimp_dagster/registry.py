"""Methods register themselves under a stage and a name; a recipe names them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError

Stage = Literal["curriculum", "acquisition", "reward", "selection", "optimization", "refinement"]
STAGES: tuple[Stage, ...] = get_args(Stage)

PLACES: dict[Stage, str] = {stage: stage for stage in STAGES} | {"reward": "rewards"}
"""The field of a recipe in which each stage's methods are chosen."""

CHAINS: frozenset[Stage] = frozenset({"reward", "selection"})
"""The stages for which a recipe chooses a list of methods."""

PROVIDED = frozenset({"verifier", "logprobs", "embeddings", "gradients", "judgement"})
"""What every task suite (a verifier), every engine (logprobs, embeddings) and every policy that is
trained (its gradients) give, and what recipes are refused without (judgement: a reward that asks for no known
answer); a method may need more."""

Signal = Literal["verdict", "score", "ordering", "votes", "answers"]
"""What a reward tells, and so what an update can learn from it.

verdict: whether a sample is accepted, judged by itself; score: how good it is, judged by itself; ordering:
how it compares with the other samples of its task, and nothing beyond; votes: how many samples of its task
agree with it; answers: what the right answer is.
"""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """One registered method.

    `section` is the survey's section, `paper` where the mechanism comes from, `needs` what the tasks or
    the engine must provide (see PROVIDED), `state` what it leaves for the next round of its line. `gives` is
    what a reward tells, `takes` what an update can learn from: the recipe must have a reward that gives one
    of these, unless there are none.
    """

    stage: Stage
    name: str
    function: Callable[..., Any]
    parameters: type[BaseModel]
    section: str
    paper: str
    needs: frozenset[str]
    state: type[BaseModel] | None = None
    gives: frozenset[Signal] = frozenset()
    takes: frozenset[Signal] = frozenset()

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().splitlines()[0]


_SCORE: frozenset[Signal] = frozenset({"score"})

_METHODS: dict[tuple[Stage, str], Method] = {}


def method(
    stage: Stage,
    name: str,
    *,
    parameters: type[BaseModel],
    section: str,
    paper: str,
    needs: frozenset[str] = frozenset(),
    state: type[BaseModel] | None = None,
    gives: frozenset[Signal] = frozenset(),
    takes: frozenset[Signal] = frozenset(),
) -> Callable[[_Function], _Function]:
    """Registers the decorated function as a method of a stage; a reward gives a score unless it says else.

    Raises:
        ValueError: another function already has that stage and name.
    """

    def register(function: _Function) -> _Function:
        present = _METHODS.get((stage, name))
        if present is not None:
            raise ValueError(f"{stage} method {name!r} is already {present.function.__qualname__}")
        told = gives or (_SCORE if stage == "reward" else gives)
        _METHODS[stage, name] = Method(
            stage, name, function, parameters, section, paper, needs, state, told, takes
        )
        return function

    return register


@contextmanager
def lent(loan: Method) -> Iterator[None]:
    """Within the context recipes may name this method too: for parts that no campaign should find elsewhere.

    Raises:
        ValueError: there is a method of that stage and name.
    """
    place = (loan.stage, loan.name)
    if place in _METHODS:
        raise ValueError(f"there is a {loan.stage} method {loan.name!r} already")
    _METHODS[place] = loan
    try:
        yield
    finally:
        del _METHODS[place]


def find_method(stage: Stage, name: str) -> Method:
    """The method of that stage and name.

    Raises:
        SelfimpError: there is none.
    """
    try:
        return _METHODS[stage, name]
    except KeyError:
        known = ", ".join(sorted(n for s, n in _METHODS if s == stage)) or "none"
        raise SelfimpError(
            f"there is no {stage} method {name!r}",
            where=f"recipe.{PLACES[stage]}",
            fix=f"choose one of: {known} (see `selfimp methods`)",
        ) from None


def all_methods() -> list[Method]:
    """Every registered method, in the order of the stages, then by name."""
    return sorted(_METHODS.values(), key=lambda m: (STAGES.index(m.stage), m.name))
