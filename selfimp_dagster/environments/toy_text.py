"""Gymnasium's small worlds, told in words: a frozen lake to cross, and a taxi to drive."""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from selfimp_dagster.environments.protocol import Bounds, Step, environment

_PACKAGES = ("gymnasium",)

Place = tuple[int, int]
"""Row and column, from 0."""


class FrozenLakeParameters(Bounds):
    """Parameters of `frozen_lake`."""

    turns: int = Field(default=12, ge=1, description="Turns after which an episode ends.")
    size: int = Field(default=4, ge=2, le=10, description="Fields on each side of the lake.")
    frozen: float = Field(default=0.8, ge=0.7, le=1, description="Share of fields that are ice, not holes.")
    goal: Place | None = Field(
        default=None, description="Row and column of the goal, from 0. None: the corner opposite the start."
    )

    @model_validator(mode="after")
    def _goal_is_on_the_lake(self) -> Self:
        if self.goal is not None and (self.goal == (0, 0) or not all(0 <= n < self.size for n in self.goal)):
            raise ValueError(f"goal {self.goal} is the start, or not on the lake")
        return self


@environment("frozen_lake", parameters=FrozenLakeParameters, version=1, packages=_PACKAGES)
class FrozenLake:
    """Crosses a frozen lake, whose ice is not slippery, from a corner to the opposite one.

    Gymnasium's FrozenLake (its toy-text worlds) on a lake drawn from the seed; there is always a way.
    Outcome: 1 at the goal, else 0. Progress of a turn: 1 if it shortened the way to the goal, else 0.
    """

    _ACTIONS = ("left", "down", "right", "up")
    reminder = "Answer with one word: left, right, up or down."

    def __init__(self, parameters: FrozenLakeParameters) -> None:
        self._parameters = parameters

    def reset(self, seed: int) -> str:
        from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map

        lake = generate_random_map(self._parameters.size, self._parameters.frozen, seed=seed)
        self._lake = lake if self._parameters.goal is None else _with_goal(lake, self._parameters.goal)
        self._world: Any = FrozenLakeEnv(desc=self._lake, is_slippery=False)
        self._world.reset(seed=seed)
        self._ways = steps_to_goal(self._world.P)
        self._arrived = False
        return (
            f"You walk on a frozen lake, one field at a time: left, right, up or down. P is where you are, "
            f"F is ice, H is a hole that you fall into, S is where you started, and G{self._where()} is the "
            f"goal.\n\n{self._drawn()}\n\n{self.reminder}"
        )

    def step(self, action: str) -> Step:
        chosen = chosen_word(action, self._ACTIONS)
        if chosen is None:
            return Step(f"That is not a way to walk. {self.reminder}", valid=False, progress=0.0, done=False)
        before = self._world.s
        _, reward, ended, _, _ = self._world.step(self._ACTIONS.index(chosen))
        self._arrived = ended and reward > 0
        nearer = is_nearer(self._ways, before, self._world.s, self._arrived)
        if ended:
            told = "You have reached the goal." if self._arrived else "You have fallen into a hole."
            return Step(told, valid=True, progress=nearer, done=True)
        moved = f"You walked {chosen}." if self._world.s != before else f"You cannot walk {chosen} from here."
        return Step(f"{moved}\n\n{self._drawn()}\n\n{self.reminder}", valid=True, progress=nearer, done=False)

    def outcome(self) -> float:
        return float(self._arrived)

    def reached(self) -> FrozenLakeParameters | None:
        at = self._at()
        safe = at != (0, 0) and self._lake[at[0]][at[1]] != "H"
        return self._parameters.model_copy(update={"goal": at}) if safe else None

    def _at(self) -> Place:
        return divmod(int(self._world.s), self._parameters.size)

    def _where(self) -> str:
        goal = self._parameters.goal
        return "" if goal is None else f", in row {goal[0]} and column {goal[1]},"

    def _drawn(self) -> str:
        row, column = self._at()
        lines = [list(line) for line in self._lake]
        lines[row][column] = "P"
        return "\n".join("".join(line) for line in lines)


class TaxiParameters(Bounds):
    """Parameters of `taxi`."""

    turns: int = Field(default=25, ge=1, description="Turns after which an episode ends.")
    goal: Literal["deliver", "fetch"] | Place = Field(
        default="deliver",
        description="deliver the passenger, only fetch them, or drive to this row and column, from 0.",
    )


@environment("taxi", parameters=TaxiParameters, version=1, packages=_PACKAGES)
class Taxi:
    """Fetches a passenger with a taxi and brings them where they want to go.

    Gymnasium's Taxi (Dietterich 2000, arXiv:cs/9905014); taxi, passenger and destination are drawn from the
    seed. Outcome: 1 once the passenger was dropped off at the destination, or another goal was reached, else
    0. Progress of a turn: 1 if it reduced the number of turns that are needed at least, else 0.
    """

    _ACTIONS = ("south", "north", "east", "west", "pickup", "dropoff")
    _PLACES = ("R", "G", "Y", "B")
    reminder = "Answer with one word: north, south, east, west, pickup or dropoff."

    def __init__(self, parameters: TaxiParameters) -> None:
        self._parameters = parameters

    def reset(self, seed: int) -> str:
        from gymnasium.envs.toy_text.taxi import TaxiEnv

        self._world: Any = TaxiEnv()
        self._world.reset(seed=seed)
        delivers = self._parameters.goal == "deliver"
        self._ways = steps_to_goal(self._world.P, None if delivers else self._fulfils)
        self._done = False
        return (
            f"You drive a taxi. {self._errand()} The places are R, G, Y and B, the taxi is T; it moves one "
            f"field at a time, and | is a wall that it cannot cross.\n\n{self._told()}\n\n{self.reminder}"
        )

    def step(self, action: str) -> Step:
        joined = re.sub(r"\b(pick|drop)[\s-]+(up|off)\b", r"\1\2", action.lower())
        chosen = chosen_word(joined, self._ACTIONS)
        if chosen is None:
            return Step(
                f"That is nothing that a taxi can do. {self.reminder}", valid=False, progress=0.0, done=False
            )
        before = self._world.s
        _, _, delivered, _, _ = self._world.step(self._ACTIONS.index(chosen))
        self._done = delivered if self._parameters.goal == "deliver" else self._fulfils(self._world.s)
        nearer = is_nearer(self._ways, before, self._world.s, self._done)
        if delivered or self._done:
            told = "The passenger is at the destination." if delivered else "You have done it."
            return Step(told, valid=True, progress=nearer, done=True)
        change = "" if self._world.s != before else f"{chosen.capitalize()} changes nothing here.\n\n"
        return Step(f"{change}{self._told()}\n\n{self.reminder}", valid=True, progress=nearer, done=False)

    def outcome(self) -> float:
        return float(self._done)

    def reached(self) -> TaxiParameters:
        row, column, passenger, _ = self._world.decode(self._world.s)
        goal = "fetch" if passenger == len(self._PLACES) else (int(row), int(column))
        return self._parameters.model_copy(update={"goal": goal})

    def _fulfils(self, state: int) -> bool:
        """Whether this state fulfils a goal other than to deliver."""
        row, column, passenger, _ = self._world.decode(state)
        goal = self._parameters.goal
        return bool(passenger == len(self._PLACES) if goal == "fetch" else (row, column) == goal)

    def _errand(self) -> str:
        match self._parameters.goal:
            case "deliver":
                return "Fetch the passenger and drop them off at their destination."
            case "fetch":
                return "Fetch the passenger: that is all."
            case (row, column):
                return f"Drive to row {row}, column {column}: that is all."

    def _told(self) -> str:
        row, column, passenger, destination = self._world.decode(self._world.s)
        lines = [[cell.decode() for cell in line] for line in self._world.desc]
        lines[row + 1][2 * column + 1] = "T"
        drawn = "\n".join("".join(line) for line in lines)
        aboard = passenger == len(self._PLACES)
        where = "in the taxi" if aboard else f"at {self._place(passenger)}"
        return (
            f"{drawn}\n\nThe taxi is in row {row}, column {column}. The passenger is {where}. "
            f"The destination is {self._place(destination)}."
        )

    def _place(self, number: int) -> str:
        row, column = self._world.locs[number]
        return f"{self._PLACES[number]} (row {row}, column {column})"


def chosen_word(text: str, words: Sequence[str]) -> str | None:
    """The one of the words that stands in the text, in any case and as often as it likes; none if two do."""
    found = set(re.findall(r"[a-z]+", text.lower())) & set(words)
    return found.pop() if len(found) == 1 else None


def steps_to_goal(
    transitions: Mapping[int, Mapping[int, Sequence[tuple[Any, ...]]]],
    fulfils: Callable[[int], bool] | None = None,
) -> dict[int, int]:
    """How many actions each state needs at least until the goal; states without a way are left out.

    Args:
        transitions: Gymnasium's table of a world without chance, `{state: {action: [(probability, next
            state, reward, ended)]}}`.
        fulfils: whether a state is the goal. Without it, an action that ends the world with a reward above 0
            reaches the goal.
    """
    before: dict[int, list[int]] = {}
    ways: dict[int, int] = {}
    for state, actions in transitions.items():
        for ((_, following, reward, ended),) in actions.values():
            if fulfils(following) if fulfils else ended and reward > 0:
                ways[state] = 1
            elif not ended:
                before.setdefault(int(following), []).append(state)
    waiting = deque(ways)
    while waiting:
        state = waiting.popleft()
        for earlier in before.get(state, ()):
            if earlier not in ways:
                ways[earlier] = ways[state] + 1
                waiting.append(earlier)
    return ways


def _with_goal(lake: Sequence[str], goal: Place) -> list[str]:
    """The lake with its goal there.

    Raises:
        ValueError: there is a hole.
    """
    fields = [list(line.replace("G", "F")) for line in lake]
    if fields[goal[0]][goal[1]] == "H":
        raise ValueError(f"the goal {goal} is a hole")
    fields[goal[0]][goal[1]] = "G"
    return ["".join(line) for line in fields]


def is_nearer(ways: Mapping[int, int], before: int, after: int, arrived: bool) -> float:
    """1 if the goal was reached or is fewer actions away than before, else 0."""
    return float(arrived or (after in ways and ways[after] < ways[before]))
