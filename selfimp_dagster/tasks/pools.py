"""The four disjoint pools: train, anchor and fresh by what a prompt says, guard by its source."""

import hashlib
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import TASKS, check_schema, derive_seed, frame
from selfimp_dagster.tasks import families
from selfimp_dagster.tasks.suites import (
    FileSource,
    ReasoningGymSource,
    StringsSource,
    Task,
    TaskSource,
    read_rows,
    stream_tasks,
)

Pool = Literal["train", "anchor", "fresh", "guard"]

FRUITLESS_DRAWS = 1000
"""Draws in a row without a new prompt after which a family counts as exhausted. A prompt that one in a
hundred draws would show is then missed with probability 4e-5."""

_COMPARED_PROMPTS = 300


class Pools(BaseModel):
    """How many tasks each pool holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        description="Tasks per round to sample training data from. A list gives the first rounds of a line "
        "one number each; the last holds from there on.",
    )
    anchor: int = Field(ge=0, description="Evaluation items that stay the same from round to round.")
    anchor_rounds: PositiveInt | None = Field(
        default=None,
        description="Rounds after which the anchor items are drawn anew; null: they stay for the whole "
        "campaign.",
    )
    fresh: int = Field(ge=0, description="Evaluation items drawn anew every round.")
    guard: int = Field(ge=0, description="Items of the guard skills, which must not get worse.")
    evaluation_share: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="Share of all prompts never trained on: half for anchor, half for fresh. "
        "Changing it during a campaign moves prompts between training and evaluation.",
    )

    @field_validator("train", mode="before")
    @classmethod
    def _numbers_of_tasks(cls, train: Any) -> Any:
        numbers = train if isinstance(train, list | tuple) else [train]
        if not numbers or not all(type(number) is int and number > 0 for number in numbers):
            raise ValueError("Input should be a valid integer above 0, or a list of them")
        return train

    def anchor_set(self, round_number: int) -> int:
        """Which set of anchor items a round is measured on, counted from 0."""
        return round_number // self.anchor_rounds if self.anchor_rounds else 0

    def train_tasks(self, earlier_rounds: int) -> int:
        """The train tasks of a round with that many ancestors."""
        if isinstance(self.train, int):
            return self.train
        return self.train[min(earlier_rounds, len(self.train) - 1)]


@dataclass(frozen=True)
class PoolDraw:
    """The tasks of one pool, ordered by skill.

    `shortfall`: places of a skill's quota that its source could not fill; other skills got them if they
    could. `skipped`: unusable rows of the skill's file.
    """

    tasks: list[Task]
    shortfall: dict[str, int]
    skipped: dict[str, int] = field(default_factory=dict)


def prompt_key(prompt: str) -> str:
    """The prompt without differences in case, spacing and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def side_of(prompt: str, evaluation_share: float) -> Literal["train", "anchor", "fresh"]:
    """The one pool that may hold this prompt: a function of its text, the same everywhere and always."""
    digest = hashlib.sha256(prompt_key(prompt).encode("utf-8", "surrogatepass")).hexdigest()
    place = int(digest[:13], 16) / 16**13
    if place < evaluation_share / 2:
        return "anchor"
    if place >= 1 - evaluation_share / 2:
        return "fresh"
    return "train"


def pool_seed(pool: Pool, campaign_seed: int, round_number: int, anchor_set: int = 0) -> int:
    """The seed to draw a pool with. That of guard is the same in every round, that of anchor in every round
    with the same anchor set."""
    if pool == "guard" or (pool == "anchor" and anchor_set == 0):
        return derive_seed("pool", pool, campaign_seed)
    return derive_seed("pool", pool, campaign_seed, anchor_set if pool == "anchor" else round_number)


def quotas(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """`size` places by weight, the largest remainders rounded up; ties go by name."""
    total = sum(weights.values())
    shares = {skill: size * weight / total for skill, weight in sorted(weights.items())}
    places = {skill: int(share) for skill, share in shares.items()}
    by_remainder = sorted(shares, key=lambda skill: (places[skill] - shares[skill], skill))
    for skill in by_remainder[: size - sum(places.values())]:
        places[skill] += 1
    return places


def draw_pool(
    pool: Pool,
    sources: Mapping[str, TaskSource],
    size: int,
    seed: int,
    evaluation_share: float,
    base_folder: Path,
    skill_weights: Mapping[str, float] | None = None,
    levels: Mapping[str, Collection[float]] | None = None,
) -> PoolDraw:
    """`size` tasks with distinct prompts, or fewer where the sources hold no more.

    The draw depends on nothing but the arguments, and not on the order of `sources`.

    Args:
        sources: one source per skill; for the guard pool, those of the guard skills.
        seed: from `pool_seed`.
        skill_weights: shares that replace the weights of the sources, for the skills it names;
            a skill of weight 0 is left out.
        levels: the difficulties that tasks of a skill may have; a skill that it does not name has all.

    Raises:
        SelfimpError: `skill_weights` does not fit the sources, a source fails, or the pool stays empty.
    """
    weights = _weights(sources, skill_weights or {})
    if size == 0:
        return PoolDraw([], {})
    seen: set[str] = set()
    supplies = {
        skill: _Supply(
            stream_tasks(sources[skill], skill, seed, base_folder, (levels or {}).get(skill)),
            lambda prompt: pool == "guard" or side_of(prompt, evaluation_share) == pool,
            seen,
        )
        for skill in sorted(weights)
    }
    drawn: dict[str, list[Task]] = {skill: [] for skill in supplies}
    shortfall: dict[str, int] = {}
    for skill, quota in quotas(weights, size).items():
        drawn[skill] = supplies[skill].take(quota)
        if len(drawn[skill]) < quota:
            shortfall[skill] = quota - len(drawn[skill])
    while missing := size - sum(map(len, drawn.values())):
        able = {skill: weight for skill, weight in weights.items() if not supplies[skill].exhausted}
        if not able:
            break
        for skill, quota in quotas(able, missing).items():
            drawn[skill] += supplies[skill].take(quota)
    tasks = [task for skill in drawn for task in drawn[skill]]
    if not tasks:
        raise SelfimpError(
            f"no prompt of {', '.join(sorted(weights))} belongs to the {pool} pool",
            where=f"pools.{pool}",
            fix="add a source with more distinct prompts, or set the pool to 0",
        )
    return PoolDraw(tasks, shortfall, _skipped(sources, weights, base_folder))


def tasks_frame(tasks: Sequence[Task], pool: Pool | Literal["twin"]) -> pl.DataFrame:
    """The tasks of one pool, or twins of anchor items, with the schema `records.TASKS`."""
    return frame(
        ({**asdict(task), "parent_ids": list(task.parent_ids), "pool": pool} for task in tasks), TASKS
    )


def tasks_from_frame(table: pl.DataFrame) -> list[Task]:
    """The tasks of a frame, in its order, whatever their pool.

    Raises:
        SelfimpError: the frame has not the schema `records.TASKS`.
    """
    rows = check_schema(table, TASKS, "tasks").select(column.name for column in fields(Task)).to_dicts()
    return [Task(**{**row, "parent_ids": tuple(row["parent_ids"] or ())}) for row in rows]


def check_disjoint(
    sources: Mapping[str, TaskSource], guard: Mapping[str, TaskSource], base_folder: Path
) -> None:
    """Refuses guard skills that are trained on.

    Two files are compared by all their prompts, two parametrisations of one family by their
    configuration and by a few hundred prompts of each.

    Raises:
        SelfimpError: a skill name, a source or a prompt is in both.
    """
    for name in sorted(set(sources) & set(guard)):
        raise SelfimpError(
            f"overlapping pools: {name!r} is both a skill and a guard skill",
            where=f"skills.{name} and guard.{name}",
            fix="remove it from one of them: guard skills are never trained on",
        )
    for name, source in sorted(sources.items()):
        for guard_name, guard_source in sorted(guard.items()):
            shared = _overlap(source, guard_source, base_folder)
            if shared is not None:
                raise SelfimpError(
                    f"overlapping pools: both yield {shared}",
                    where=f"skills.{name} and guard.{guard_name}",
                    fix="give the guard skill another file or family, or parameters whose prompts differ",
                )


class _Supply:
    """The tasks of one skill that a pool may hold, none with a prompt already in `seen`."""

    def __init__(self, tasks: Iterator[Task], belongs: Callable[[str], bool], seen: set[str]) -> None:
        self._tasks = tasks
        self._belongs = belongs
        self._seen = seen
        self.exhausted = False

    def take(self, count: int) -> list[Task]:
        """`count` tasks, or fewer when the source has no more."""
        return list(islice(iter(self._next, None), count))

    def _next(self) -> Task | None:
        for task in islice(self._tasks, FRUITLESS_DRAWS):
            key = prompt_key(task.prompt)
            if key not in self._seen and self._belongs(task.prompt):
                self._seen.add(key)
                return task
        self.exhausted = True
        return None


def _weights(sources: Mapping[str, TaskSource], replaced: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(set(replaced) - set(sources))
    if unknown or any(weight < 0 for weight in replaced.values()):
        raise SelfimpError(
            f"{'no such skill: ' + ', '.join(unknown) if unknown else 'a weight is negative'}",
            where="skill_weights",
            fix=f"give weights of at least 0 to some of: {', '.join(sorted(sources))}",
        )
    weights = {skill: replaced.get(skill, source.weight) for skill, source in sources.items()}
    weights = {skill: weight for skill, weight in weights.items() if weight > 0}
    if not weights:
        raise SelfimpError(
            "there is no skill to draw tasks from",
            where="skill_weights" if sources else "skills",
            fix="name at least one skill with a weight above 0",
        )
    return weights


def _skipped(
    sources: Mapping[str, TaskSource], weights: Mapping[str, float], base_folder: Path
) -> dict[str, int]:
    counts = {
        skill: sum(read_rows(source, base_folder).skipped.values())
        for skill, source in sources.items()
        if skill in weights and isinstance(source, FileSource)
    }
    return {skill: count for skill, count in sorted(counts.items()) if count}


def _overlap(one: TaskSource, other: TaskSource, base_folder: Path) -> str | None:
    """What both sources yield, in words; None if nothing was found."""
    if isinstance(one, FileSource) and isinstance(other, FileSource):
        if (base_folder / one.path).resolve() == (base_folder / other.path).resolve():
            return f"the rows of {one.path}"
        prompts = [
            {prompt_key(row.prompt) for row in read_rows(file, base_folder).rows} for file in (one, other)
        ]
    elif isinstance(one, StringsSource) and isinstance(other, StringsSource):
        same = one.operation == other.operation and set(one.levels) & set(other.levels)
        return f"{one.operation} of {min(same)} places" if same else None
    elif (
        isinstance(one, ReasoningGymSource)
        and isinstance(other, ReasoningGymSource)
        and one.family == other.family
    ):
        configs = [families.family_config(each.family, each.parameters, each.family) for each in (one, other)]
        if configs[0] == configs[1]:
            return f"family {one.family} with the same parameters"
        prompts = [
            {
                prompt_key(task.prompt)
                for task in islice(stream_tasks(each, "", 0, base_folder), _COMPARED_PROMPTS)
            }
            for each in (one, other)
        ]
    else:
        return None
    shared = prompts[0] & prompts[1]
    return f"the prompt {min(shared)[:80]!r}" if shared else None
