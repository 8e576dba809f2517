"""The typed space that evolution searches: fields of a recipe, and the values that each may take.

A point has a value for each field. Whoever proposes one, a mutation or a model, names a field and a value of
its type, and nothing else: no text of a model is run or becomes part of a recipe in any other way.
"""

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from selfimp_dagster.errors import SelfimpError

_STEP = 0.25
"""Standard deviation of a step within a range, as a part of its width."""


class _Gene(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Gene):
    """One of some values."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=2, description="The values.")

    @property
    def domain(self) -> str:
        """The values in words, for people and for models that propose."""
        return "one of " + ", ".join(map(str, self.values))

    def read(self, value: Any) -> Any:
        """The value, if it is one of these.

        Raises:
            ValueError: it is none.
        """
        if not any(type(known) is type(value) and known == value for known in self.values):
            raise ValueError(f"{value!r} is not {self.domain}")
        return value

    def other(self, value: Any, lot: random.Random) -> Any:
        """Another value than this one."""
        return lot.choice([known for known in self.values if known != value])


class Range(_Gene):
    """A number between two others."""

    kind: Literal["range"]
    low: float = Field(description="The smallest number.")
    high: float = Field(description="The largest number.")
    scale: Literal["linear", "log"] = Field(default="linear", description="How steps are measured.")
    whole: bool = Field(default=False, description="Whole numbers only.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("a range on a log scale begins above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("a range of whole numbers begins and ends with one")
        return self

    @property
    def domain(self) -> str:
        """The values in words, for people and for models that propose."""
        return f"{'a whole number' if self.whole else 'a number'} from {self.low:g} to {self.high:g}"

    def read(self, value: Any) -> Any:
        """The value, if it lies in the range.

        Raises:
            ValueError: it does not, or is no number of this kind.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or (self.whole and value != int(value)):
            raise ValueError(f"{value!r} is not {self.domain}")
        return int(value) if self.whole else float(value)

    def other(self, value: Any, lot: random.Random) -> Any:
        """A number a normal step away, held within the range; anywhere in it without a value."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        while True:
            if value is None:
                at = lot.uniform(low, high)
            else:
                at = self._scaled(min(max(value, self.low), self.high)) + lot.gauss(0, _STEP * (high - low))
            found = self._plain(min(max(at, low), high))
            if found != value:
                return found

    def _scaled(self, number: float) -> float:
        return math.log(number) if self.scale == "log" else number

    def _plain(self, at: float) -> float | int:
        number = math.exp(at) if self.scale == "log" else at
        if self.whole:
            return round(number)
        return min(max(float(f"{number:.4g}"), self.low), self.high)  # short, and enough


class Blend(_Gene):
    """Named parts of a whole: a loss made of several, for example."""

    kind: Literal["blend"]
    of: tuple[str, ...] = Field(min_length=2, description="What may be blended.")
    steps: int = Field(default=4, ge=2, description="Weights are multiples of 1 / steps; they add up to 1.")

    @property
    def domain(self) -> str:
        """The values in words, for people and for models that propose."""
        return (
            f"weights of {', '.join(self.of)} that are multiples of {1 / self.steps:g} and add up to 1, such "
            f"as {{{self.of[0]}: {1 / self.steps:g}, {self.of[1]}: {1 - 1 / self.steps:g}}}"
        )

    def read(self, value: Any) -> Any:
        """The weights, if they are such a blend; those that are not named are 0.

        Raises:
            ValueError: they are none.
        """
        try:
            given = TypeAdapter(dict[str, float]).validate_python(value)
        except ValidationError:
            raise ValueError(f"{value!r} is no mapping of names to weights") from None
        parts = {name: given.get(name, 0.0) * self.steps for name in self.of}
        whole = all(part >= 0 and math.isclose(part, round(part), abs_tol=1e-6) for part in parts.values())
        if given.keys() - parts.keys() or not whole or round(sum(parts.values())) != self.steps:
            raise ValueError(f"{value!r} is not {self.domain}")
        return {name: round(part) / self.steps for name, part in parts.items()}

    def other(self, value: Any, lot: random.Random) -> Any:
        """One step of weight moved from one part to another; all of it on one part without a value."""
        parts = {name: round((value or {}).get(name, 0.0) * self.steps) for name in self.of}
        if sum(parts.values()) != self.steps:
            chosen = lot.choice(self.of)
            return {name: float(name == chosen) for name in self.of}
        giver = lot.choice([name for name in self.of if parts[name]])
        taker = lot.choice([name for name in self.of if name != giver])
        parts[giver] -= 1
        parts[taker] += 1
        return {name: part / self.steps for name, part in parts.items()}


Gene = Annotated[Choice | Range | Blend, Field(discriminator="kind")]


def value_at(recipe: Mapping[str, Any], field: str) -> Any:
    """The value of a field `stage.parameter` of a recipe as plain data; none where it has no such field."""
    here: Any = recipe
    for name in field.split("."):
        if not isinstance(here, Mapping) or name not in here:
            return None
        here = here[name]
    return here


def change(field: str, value: Any) -> dict[str, Any]:
    """The change of a recipe that gives one field this value."""
    for name in reversed(field.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def check_field(field: str, fields: Mapping[str, Any]) -> None:
    """Refuses a field that no recipe has.

    Raises:
        SelfimpError: its first part is none of these fields.
    """
    first = field.split(".")[0]
    if first not in fields or not all(field.split(".")):
        raise SelfimpError(
            f"a recipe has no field {field!r}",
            where="evolution.space",
            fix=f"name a parameter as stage.parameter, with a stage of: {', '.join(fields)}",
        )
