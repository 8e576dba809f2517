"""Where two artifacts first differ: by file, and in it by row, field, tensor or line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimp_dagster.models.hashing import file_sha256
from selfimp_dagster.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

FACTS = "facts"
"""Stands for a file's name where it is the manifest's facts that differ."""

ROW_IDS = {
    "tasks": ("task_id",),
    "items": ("pool", "task_id"),
    "samples": ("sample_id",),
    "judge_probe": ("reward", "task_id", "right"),
    "proposals": ("proposal_id",),
    "drafts": ("sample_id",),
    "documents": ("document_id",),
    "rewards": ("sample_id", "reward"),
    "selection": ("sample_id", "position"),
    "subset": ("sample_id",),
    "spare": ("sample_id",),
    "exact_keys": ("sample_id",),
    "near_keys": ("sample_id", "key"),
    "training": ("update", "role", "pair_id", "sample_id"),
    "training_curve": ("step",),
    "training_metrics": ("step", "metric"),
    "rollouts": ("sample_id",),
    "rollout_rewards": ("sample_id", "reward"),
    "refinements": ("task_id",),
    "offered_tasks": ("task_id",),
    "offered_samples": ("sample_id",),
    "evaluations": ("suite", "item_id", "arm"),
    "rewordings": ("item_id", "wording", "arm"),
    "twins": ("twin_id", "arm"),
    "episodes": ("episode_id", "arm"),
    "watched": ("item_id", "arm", "draw"),
    "rewarded": ("task_id", "arm", "reward"),
    "dimensions": ("measure", "arm"),
    "monitors": ("monitor",),
}
"""What names a row of a table; the tables in the order in which a stage makes them."""

_SHOWN = 60  # characters of a value
_NOTHING = "nothing"

_Rows = dict[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """The first place at which a file is not what was recorded, and both values.

    `extent` counts what differs in the file; it is empty where that is the one place.
    """

    file: str
    place: str
    recorded: str
    now: str
    extent: str = ""


def differences(recorded: Artifact, now: Artifact) -> Iterator[Difference]:
    """The first difference of each file, in the order in which they are made, then that of the facts.

    A recorded file that is gone is compared by its hash.
    """
    old, new = recorded.manifest.files, now.manifest.files
    for name in sorted(old.keys() | new.keys(), key=_order):
        if old.get(name) == new.get(name):
            continue
        if name not in old or name not in new:
            there, missing = "there", "not there"
            values = (there, missing) if name in old else (missing, there)
            yield Difference(name, "the file", *values)
        elif not (recorded.folder / name).is_file():
            yield Difference(name, "the file", old[name], new[name], "gone: only its sha256 is recorded")
        else:
            yield file_difference(name, recorded.folder / name, now.folder / name)
    if found := _first(FACTS, "", value_differences(recorded.facts, now.facts)):
        yield found


def file_difference(name: str, recorded: Path, now: Path) -> Difference:
    """Where two files that are not the same bytes first differ."""
    compare = {".parquet": _tables, ".safetensors": _weights, ".json": _documents}.get(
        Path(name).suffix, _lines
    )
    return compare(name, recorded, now) or Difference(
        name,
        "its bytes",
        file_sha256(recorded),
        file_sha256(now),
        "the same content, written in another way",
    )


def value_differences(recorded: Any, now: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """The dotted paths at which two JSON values differ, with both values."""
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        for name in sorted(recorded.keys() | now.keys()):
            path = f"{place}.{name}" if place else str(name)
            if name not in now:
                yield path, _cut(repr(recorded[name])), _NOTHING
            elif name not in recorded:
                yield path, _NOTHING, _cut(repr(now[name]))
            else:
                yield from value_differences(recorded[name], now[name], path)
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for at, (one, other) in enumerate(zip(recorded, now, strict=True)):
            yield from value_differences(one, other, f"{place}.{at}")
    elif not _same(recorded, now):
        yield place, *_shown(recorded, now)


def _first(file: str, kind: str, found: Iterator[tuple[str, str, str]]) -> Difference | None:
    """The first of these differences; the extent says how many there are."""
    places = list(found)
    if not places:
        return None
    place, recorded, now = places[0]
    extent = f"{len(places)} values differ" if len(places) > 1 else ""
    return Difference(file, f"{kind}{place}", recorded, now, extent)


def _order(name: str) -> tuple[int, str]:
    """Tables first, since the rest follows from them; then weights, then what describes them."""
    path = Path(name)
    if path.suffix == ".parquet" and path.stem in ROW_IDS:
        return list(ROW_IDS).index(path.stem), name
    ranks = {".parquet": 0, ".safetensors": 1, ".json": 2}
    return len(ROW_IDS) + ranks.get(path.suffix, 3), name


def _tables(name: str, recorded: Path, now: Path) -> Difference | None:
    tables = (pl.read_parquet(recorded), pl.read_parquet(now))
    schemas = [{column: str(kind) for column, kind in table.schema.items()} for table in tables]
    if found := _first(name, "column ", value_differences(schemas[0], schemas[1])):
        return found
    ids = ROW_IDS.get(Path(name).stem, ())
    old, new = (_rows(table, ids) for table in tables)
    changed = [key for key in old if key in new and _columns(old[key], new[key])]
    extent = _extent(old, new, changed)
    for key in (*old, *new):
        row = f"row {_named(key, ids)}"
        if key not in new:
            return Difference(name, row, "there", "not there", extent)
        if key not in old:
            return Difference(name, row, "not there", "there", extent)
        if columns := _columns(old[key], new[key]):
            values = _shown(old[key][columns[0]], new[key][columns[0]])
            return Difference(name, f"{row}, column {columns[0]}", *values, extent)
    for at, (one, other) in enumerate(zip(old, new, strict=True)):
        if one != other:
            values = _named(one, ids), _named(other, ids)
            return Difference(name, f"order of the rows, from row {at} on", *values, "no value differs")
    return None


def _rows(table: pl.DataFrame, ids: tuple[str, ...]) -> _Rows:
    """Rows by their id, or by their place where nothing names them."""
    return {
        tuple(row[name] for name in ids) or (place,): row
        for place, row in enumerate(table.iter_rows(named=True))
    }


def _columns(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The columns in which two rows differ."""
    return [name for name in one if not _same(one[name], other[name])]


def _named(key: tuple[Any, ...], ids: tuple[str, ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(ids or ("place",), key, strict=True))


def _extent(old: _Rows, new: _Rows, changed: list[tuple[Any, ...]]) -> str:
    """How many rows are not the same, in which columns, and how far apart their numbers are."""
    parts = [f"{len(changed)} of {len(old)} rows differ"] if changed else []
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for key in changed:
        for name in _columns(old[key], new[key]):
            pairs.setdefault(name, []).append((old[key][name], new[key][name]))
    for name, values in pairs.items():
        apart = ""
        if all(isinstance(value, float) for pair in values for value in pair):
            apart = f", by at most {max(abs(one - other) for one, other in values):.2g}"
        parts.append(f"{len(values)} in {name}{apart}")
    if gone := len(old.keys() - new.keys()):
        parts.append(f"{gone} of {len(old)} rows are not there")
    if added := len(new.keys() - old.keys()):
        parts.append(f"{added} rows are new")
    return "; ".join(parts)


def _weights(name: str, recorded: Path, now: Path) -> Difference | None:
    from safetensors import safe_open

    first, count, furthest = None, 0, 0.0
    with safe_open(recorded, "pt") as old, safe_open(now, "pt") as new:
        tensors = sorted({*old.keys(), *new.keys()})
        for tensor in tensors:
            place = f"tensor {tensor}"
            if tensor not in new.keys():  # noqa: SIM118  it has no __contains__
                return Difference(name, place, "there", "not there")
            if tensor not in old.keys():  # noqa: SIM118
                return Difference(name, place, "not there", "there")
            one, other = old.get_tensor(tensor), new.get_tensor(tensor)
            kinds = _kind(one), _kind(other)
            if kinds[0] != kinds[1]:
                return Difference(name, place, *kinds)
            apart = (one.double() - other.double()).abs().flatten()
            most = apart.max().item() if len(apart) else 0.0
            if most == 0:
                continue
            count, furthest = count + 1, max(furthest, most)
            if first is None:
                at = int(apart.argmax())
                values = _value(one, at), _value(other, at)
                share = (apart > 0).double().mean().item()
                extent = f"{share:.1%} of its values differ, by at most {most:.2g}"
                first = Difference(name, f"{place}, value {at}", *values, extent)
    if first is None:
        return None
    return replace(
        first, extent=f"{first.extent}; {count} of {len(tensors)} tensors, by at most {furthest:.2g}"
    )


def _kind(tensor: "Tensor") -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _value(tensor: "Tensor", at: int) -> str:
    return f"{tensor.flatten()[at].item():.9g}"


def _documents(name: str, recorded: Path, now: Path) -> Difference | None:
    return _first(name, "", value_differences(*(json.loads(path.read_text()) for path in (recorded, now))))


def _lines(name: str, recorded: Path, now: Path) -> Difference | None:
    old, new = (path.read_bytes().decode(errors="replace").split("\n") for path in (recorded, now))
    lines = (
        (f"line {number}", *_shown(one, other))
        for number, (one, other) in enumerate(zip_longest(old, new), start=1)
        if one != other
    )
    return _first(name, "", lines)


def _same(one: Any, other: Any) -> bool:
    """Equal, or both not a number."""
    return bool(one == other) or (one != one and other != other)


def _shown(recorded: Any, now: Any) -> tuple[str, str]:
    """Both values as text; of long ones, where they part."""
    texts = [_NOTHING if value is None else repr(value) for value in (recorded, now)]
    start = 0
    if max(map(len, texts)) > _SHOWN:
        parting = next(
            (at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts))
        )
        start = max(0, parting - _SHOWN // 4)
    one, other = (("..." if start else "") + _cut(text[start:]) for text in texts)
    return one, other


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
