"""Gymnasium's small worlds, told in words: a frozen lake to cross, and a taxi to drive."""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from selfimp_dagster.environments.protocol import Bounds, Step, environment

_PACKAGES = ("gymnasium",)


class FrozenLakeParameters(Bounds):
    """Parameters of `frozen_lake`."""

    turns: int = Field(default=12, ge=1, description="Turns after which an episode ends.")
    size: int = Field(default=4, ge=2, le=10, description="Fields on each side of the lake.")
    frozen: float = Field(default=0.8, ge=0.7, le=1, description="Share of fields that are ice, not holes.")


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

        self._lake = generate_random_map(self._parameters.size, self._parameters.frozen, seed=seed)
        self._world: Any = FrozenLakeEnv(desc=self._lake, is_slippery=False)
        self._world.reset(seed=seed)
        self._ways = steps_to_goal(self._world.P)
        self._arrived = False
        return (
            f"You walk on a frozen lake, one field at a time: left, right, up or down. P is where you are, "
            f"F is ice, H is a hole that you fall into, S is where you started, and G is the "
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

    def _drawn(self) -> str:
        row, column = divmod(int(self._world.s), self._parameters.size)
        lines = [list(line) for line in self._lake]
        lines[row][column] = "P"
        return "\n".join("".join(line) for line in lines)


class TaxiParameters(Bounds):
    """Parameters of `taxi`."""

    turns: int = Field(default=25, ge=1, description="Turns after which an episode ends.")


@environment("taxi", parameters=TaxiParameters, version=1, packages=_PACKAGES)
class Taxi:
    """Fetches a passenger with a taxi and brings them where they want to go.

    Gymnasium's Taxi (Dietterich 2000, arXiv:cs/9905014); taxi, passenger and destination are drawn from the
    seed. Outcome: 1 once the passenger was dropped off at the destination, else 0. Progress of a turn: 1 if
    it reduced the number of turns that are needed at least, else 0.
    """

    _ACTIONS = ("south", "north", "east", "west", "pickup", "dropoff")
    _PLACES = ("R", "G", "Y", "B")
    reminder = "Answer with one word: north, south, east, west, pickup or dropoff."

    def __init__(self, parameters: TaxiParameters) -> None:
        pass

    def reset(self, seed: int) -> str:
        from gymnasium.envs.toy_text.taxi import TaxiEnv

        self._world: Any = TaxiEnv()
        self._world.reset(seed=seed)
        self._ways = steps_to_goal(self._world.P)
        self._delivered = False
        return (
            f"You drive a taxi. Fetch the passenger and drop them off at their destination. The places are "
            f"R, G, Y and B, the taxi is T; it moves one field at a time, and | is a wall that it cannot "
            f"cross.\n\n{self._told()}\n\n{self.reminder}"
        )

    def step(self, action: str) -> Step:
        joined = re.sub(r"\b(pick|drop)[\s-]+(up|off)\b", r"\1\2", action.lower())
        chosen = chosen_word(joined, self._ACTIONS)
        if chosen is None:
            return Step(
                f"That is nothing that a taxi can do. {self.reminder}", valid=False, progress=0.0, done=False
            )
        before = self._world.s
        _, _, self._delivered, _, _ = self._world.step(self._ACTIONS.index(chosen))
        nearer = is_nearer(self._ways, before, self._world.s, self._delivered)
        if self._delivered:
            return Step("The passenger is at the destination.", valid=True, progress=nearer, done=True)
        change = "" if self._world.s != before else f"{chosen.capitalize()} changes nothing here.\n\n"
        return Step(f"{change}{self._told()}\n\n{self.reminder}", valid=True, progress=nearer, done=False)

    def outcome(self) -> float:
        return float(self._delivered)

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


def steps_to_goal(transitions: Mapping[int, Mapping[int, Sequence[tuple[Any, ...]]]]) -> dict[int, int]:
    """How many actions each state needs at least until the goal; states without a way are left out.

    Args:
        transitions: Gymnasium's table of a world without chance, `{state: {action: [(probability, next
            state, reward, ended)]}}`; an action that ends the world with a reward above 0 reaches the goal.
    """
    before: dict[int, list[int]] = {}
    ways: dict[int, int] = {}
    for state, actions in transitions.items():
        for ((_, following, reward, ended),) in actions.values():
            if not ended:
                before.setdefault(int(following), []).append(state)
            elif reward > 0:
                ways[state] = 1
    waiting = deque(ways)
    while waiting:
        state = waiting.popleft()
        for earlier in before.get(state, ()):
            if earlier not in ways:
                ways[earlier] = ways[state] + 1
                waiting.append(earlier)
    return ways


def is_nearer(ways: Mapping[int, int], before: int, after: int, arrived: bool) -> float:
    """1 if the goal was reached or is fewer actions away than before, else 0."""
    return float(arrived or (after in ways and ways[after] < ways[before]))
