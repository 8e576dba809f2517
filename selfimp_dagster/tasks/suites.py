"""Sources of tasks, as written in a campaign file, and the tasks they yield."""

import json
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import canonical_json, derive_seed, task_id
from selfimp_dagster.tasks import families, strings


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(default=1.0, gt=0, description="Share of the pool, relative to the other skills.")
    difficulty: float = Field(default=1.0, description="The level that the author gives these tasks.")

    @property
    def levels(self) -> Sequence[float]:
        """Every level of difficulty that tasks have."""
        return (self.difficulty,)


class ReasoningGymSource(_Source):
    """A procedural family of reasoning-gym, judged by the family's own scorer."""

    suite: Literal["reasoning_gym"] = "reasoning_gym"
    family: str = Field(description="Name of the family, for example chain_sum.")
    parameters: dict[str, int | float | bool | str | list[Any]] = Field(
        default_factory=dict,
        description="Fields of the family's configuration that differ from its defaults.",
    )


class FileSource(_Source):
    """Tasks from a JSONL or Parquet file, one per row."""

    suite: Literal["file"] = "file"
    path: str = Field(description="The file, relative to the folder of the campaign file.")
    prompt_column: str = Field(description="Column with the text of the task.")
    answer_column: str = Field(description="Column with the expected answer.")
    answer_pattern: str | None = Field(
        default=None,
        description="Regular expression whose one group is the final answer within the answer column.",
    )
    solution_column: str | None = Field(
        default=None,
        description="Column with a worked solution. Its calculator annotations (48/2 = <<48/2=24>>) let the "
        "evaluation ask twins of an item with other numbers. It may be the answer column.",
    )
    verifier: Literal["math", "exact", "contains"] = Field(
        default="math",
        description="math: equal as mathematics; exact: equal as normalised text or number; "
        "contains: the normalised answer stands in the response as whole words.",
    )

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"needs exactly one group ( ) around the final answer, it has {groups}")
        return pattern


class StringsSource(_Source):
    """Copying, reversing or adding strings; a task's difficulty is its length, for a sum in digits."""

    suite: Literal["strings"] = "strings"
    operation: strings.Operation = Field(description="addition, copy or reverse.")
    shortest: int = Field(default=1, ge=1, description="Length of the shortest strings.")
    longest: int = Field(ge=1, le=60, description="Length of the longest strings.")

    @model_validator(mode="after")
    def _shortest_is_not_above_longest(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        return self

    @property
    def levels(self) -> range:
        """Every length that tasks have."""
        return range(self.shortest, self.longest + 1)


TaskSource = Annotated[ReasoningGymSource | FileSource | StringsSource, Field(discriminator="suite")]


@dataclass(frozen=True)
class Task:
    """One prompt with how to verify an answer to it: a row of `records.TASKS` without its pool."""

    task_id: str
    skill: str
    suite: str
    difficulty: float
    prompt: str
    answer: str | None
    verifier: str
    entry: str | None
    source: str
    parent_ids: tuple[str, ...] = ()
    generation_depth: int = 0

    @classmethod
    def from_family(cls, source: ReasoningGymSource, skill: str, item: Mapping[str, Any]) -> "Task":
        """The task of one generated item."""
        prompt = item["question"]
        answer = None if item["answer"] is None else str(item["answer"])
        return cls(
            task_id=task_id(skill, prompt, answer),
            skill=skill,
            suite=f"reasoning_gym:{source.family}",
            difficulty=source.difficulty,
            prompt=prompt,
            answer=answer,
            verifier="reasoning_gym",
            entry=families.encode_item(source.family, source.parameters, item),
            source="generator",
        )

    @classmethod
    def from_string(cls, source: StringsSource, skill: str, prompt: str, answer: str, length: int) -> "Task":
        """The task of one string."""
        return cls(
            task_id=task_id(skill, prompt, answer),
            skill=skill,
            suite=f"strings:{source.operation}",
            difficulty=float(length),
            prompt=prompt,
            answer=answer,
            verifier="verbatim",
            entry=None,
            source="generator",
        )

    @classmethod
    def from_file(cls, source: FileSource, skill: str, row: "FileRow") -> "Task":
        """The task of one row of a file."""
        return cls(
            task_id=task_id(skill, row.prompt, row.answer),
            skill=skill,
            suite=f"file:{source.path}",
            difficulty=source.difficulty,
            prompt=row.prompt,
            answer=row.answer,
            verifier=source.verifier,
            entry=None if row.solution is None else canonical_json({"solution": row.solution}),
            source="file",
        )


class FileRow(NamedTuple):
    """A usable row of a file."""

    prompt: str
    answer: str
    solution: str | None = None


@dataclass(frozen=True)
class FileRows:
    """The usable rows of a file, and how many rows were left out for which reason."""

    rows: tuple[FileRow, ...]
    skipped: Mapping[str, int]


def check(source: TaskSource, where: str, base_folder: Path) -> None:
    """Refuses a source that cannot yield tasks. Called once, when the campaign is loaded.

    Args:
        where: the source's place in the campaign file, for messages.
        base_folder: the folder of the campaign file.

    Raises:
        SelfimpError: naming the file, family and field, and what to do.
    """
    if isinstance(source, ReasoningGymSource):
        families.check_family(source.family, source.parameters, where)
    elif isinstance(source, FileSource):
        read_rows(source, base_folder, where)


def stream_tasks(
    source: TaskSource, skill: str, seed: int, base_folder: Path, levels: Collection[float] | None = None
) -> Iterator[Task]:
    """The tasks of a source in an order that depends on nothing but skill, seed and levels.

    Endless and possibly repetitive for a family and for strings; every row once for a file.

    Args:
        levels: the difficulties that tasks may have; None: all that the source has.

    Raises:
        SelfimpError: the source cannot be read or cannot generate.
    """
    stream_seed = derive_seed("stream", skill, seed)
    if isinstance(source, StringsSource):
        lengths = [length for length in source.levels if levels is None or length in levels]
        if lengths:
            for prompt, answer, length in strings.items(source.operation, lengths, stream_seed):
                yield Task.from_string(source, skill, prompt, answer, length)
    elif levels is not None and source.difficulty not in levels:
        return
    elif isinstance(source, ReasoningGymSource):
        for item in families.items(source.family, source.parameters, stream_seed):
            yield Task.from_family(source, skill, item)
    else:
        rows = list(read_rows(source, base_folder).rows)
        random.Random(stream_seed).shuffle(rows)
        for row in rows:
            yield Task.from_file(source, skill, row)


def read_rows(source: FileSource, base_folder: Path, where: str | None = None) -> FileRows:
    """All usable rows of a file, in its order. Read once per version of the file.

    Raises:
        SelfimpError: the file is missing or unreadable, a column is missing, or no row is usable.
    """
    where = where or f"suite file {source.path}"
    path = base_folder / source.path
    if not path.is_file():
        raise SelfimpError(
            f"there is no file {path}",
            where=f"{where}.path",
            fix="write the path relative to the folder of the campaign file, or put the file there",
        )
    return _read_rows(source, path, path.stat().st_mtime_ns, where)


@lru_cache(maxsize=16)
def _read_rows(source: FileSource, path: Path, modified_ns: int, where: str) -> FileRows:
    records = _read_records(path, f"{where}.path")
    columns = {name for record in records for name in record}
    for field in ("prompt_column", "answer_column", "solution_column"):
        name = getattr(source, field)
        if name is not None and name not in columns:
            raise SelfimpError(
                f"{path.name} has no column {name!r}",
                where=f"{where}.{field}",
                fix=f"use one of: {', '.join(sorted(columns)) or '(the file has no rows)'}",
            )
    rows: list[FileRow] = []
    skipped: Counter[str] = Counter()
    for record in records:
        prompt = record.get(source.prompt_column)
        answer = _final_answer(record.get(source.answer_column), source.answer_pattern)
        if not isinstance(prompt, str) or not prompt.strip():
            skipped["no prompt"] += 1
        elif answer is None:
            skipped["no answer" if source.answer_pattern is None else "answer_pattern does not match"] += 1
        else:
            solution = record.get(source.solution_column) if source.solution_column else None
            rows.append(FileRow(prompt, answer, solution if isinstance(solution, str) else None))
    if not rows:
        raise SelfimpError(
            f"none of the {len(records)} rows of {path.name} is usable "
            f"({', '.join(f'{reason}: {count}' for reason, count in skipped.items())})",
            where=f"{where}.{'answer_column' if source.answer_pattern is None else 'answer_pattern'}",
            fix="compare prompt_column, answer_column and answer_pattern with one row of the file",
        )
    return FileRows(tuple(rows), dict(skipped))


def _final_answer(value: Any, pattern: str | None) -> str | None:
    if not isinstance(value, str | int | float):
        return None
    text = str(value)
    if pattern is not None:
        match = re.search(pattern, text)
        text = (match.group(1) or "") if match else ""
    return text.strip() or None


def _read_records(path: Path, where: str) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        try:
            return pl.read_parquet(path, glob=False).to_dicts()
        except Exception as error:
            raise SelfimpError(
                f"{path.name} cannot be read as Parquet: {error}", where=where, fix="write the file again"
            ) from error
    if path.suffix in (".jsonl", ".ndjson"):
        return _read_jsonl(path, where)
    raise SelfimpError(
        f"{path.name} is neither JSONL nor Parquet",
        where=where,
        fix="convert it, and name it with the ending .jsonl or .parquet",
    )


def _read_jsonl(path: Path, where: str) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise SelfimpError(
            f"{path.name} cannot be read: {error}", where=where, fix="check its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise SelfimpError(
            f"{path.name} is not UTF-8 text: {error}", where=where, fix="save the file as UTF-8"
        ) from error
    return [
        _json_object(line, f"line {number} of {path.name}", where)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _json_object(line: str, place: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise SelfimpError(
            f"{place} is not JSON: {error}", where=where, fix="write one JSON object per line"
        ) from error
    if not isinstance(record, dict):
        raise SelfimpError(f"{place} is not a JSON object", where=where, fix="write one JSON object per line")
    return record
