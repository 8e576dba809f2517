"""reasoning-gym's procedural families: checked configurations, items that survive JSON, scorers.

reasoning_gym is imported on first use, since importing it takes seconds.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import derive_seed

CHUNK_ITEMS = 256
FAILED_ITEMS_IN_A_ROW = 20

UNREPEATABLE = frozenset(
    {
        "codeio",
        "isomorphic_strings",
        "knight_swap",
        "list_functions",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
"""Families whose items follow set order or the global random state: another process generates other items
from the same seed (measured on reasoning-gym 0.1.25), so their anchor pool could not stay fixed."""

_CHOSEN_BY_THE_CAMPAIGN = ("seed", "size")


def family_config(family: str, parameters: Mapping[str, Any], where: str, **chosen: int) -> Any:
    """The family's configuration object, checked by type and by the family's own rules.

    `chosen` are the seed and size of one chunk.

    Raises:
        SelfimpError: the family or a parameter does not exist, or a value is not allowed.
    """
    config_class = _registered(family, where)[1]
    known = sorted(set(config_class.__dataclass_fields__) - set(_CHOSEN_BY_THE_CAMPAIGN))
    for name in parameters:
        if name not in known:
            raise SelfimpError(
                f"family {family!r} has no parameter {name!r} to set{_close(name, known)}",
                where=f"{where}.parameters.{name}",
                fix=f"use one of: {', '.join(known)}",
            )
    try:
        config = _adapter(config_class).validate_python({**parameters, **chosen})
        if hasattr(config, "validate"):
            config.validate()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SelfimpError(
            f"family {family!r} refuses {field} = {first['input']!r}: {first['msg']}",
            where=f"{where}.parameters.{field}",
            fix="give the parameter a value of that type",
        ) from error
    except Exception as error:  # families check with assert, ValueError and TypeError alike
        mentioned = _mentioned(str(error), known) or sorted(parameters)
        fields = sorted(mentioned, key=lambda name: name not in parameters)
        raise SelfimpError(
            f"family {family!r} refuses {', '.join(fields) or 'its default parameters'}: {error}",
            where=f"{where}.parameters.{fields[0]}" if fields else where,
            fix="change the parameter so that the condition holds "
            f"(all parameters in use: {_shown(config_class, parameters)})",
        ) from error
    return config


def check_family(family: str, parameters: Mapping[str, Any], where: str) -> None:
    """Refuses what `family_config` refuses, and families whose items cannot be drawn again.

    Raises:
        SelfimpError: see above.
    """
    family_config(family, parameters, where)
    if family in UNREPEATABLE:
        raise SelfimpError(
            f"family {family!r} generates other items in every Python process, whatever the seed",
            where=f"{where}.family",
            fix="choose another family, or write its items to a JSONL file once and use suite: file",
        )


def items(family: str, parameters: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Endless items of a family, each with `question`, `answer` (may be None) and `metadata`.

    The stream depends on the arguments alone. An item that the family fails to generate is left out.

    Raises:
        SelfimpError: the parameters are refused, or many items in a row could not be generated.
    """
    where = f"reasoning_gym family {family}"
    dataset_class = _registered(family, where)[0]
    failures = 0
    chunk = 0
    while True:
        chunk_seed = derive_seed("chunk", seed, chunk) % 2**31  # plus an index it must fit numpy's 32 bits
        config = family_config(family, parameters, where, seed=chunk_seed, size=CHUNK_ITEMS)
        try:
            dataset = dataset_class(config=config)
        except Exception as error:
            raise _cannot_generate(family, parameters, where, error) from error
        for index in range(CHUNK_ITEMS):
            try:
                item = dataset[index]
            except Exception as error:
                failures += 1
                if failures == FAILED_ITEMS_IN_A_ROW:
                    raise _cannot_generate(family, parameters, where, error) from error
                continue
            failures = 0
            yield item
        chunk += 1


def encode_item(family: str, parameters: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """JSON from which `decode_item` restores the item exactly, with its tuples, sets and fractions.

    Raises:
        SelfimpError: the item holds an object that JSON cannot carry.
    """
    try:
        encoded = {"family": family, "parameters": dict(parameters), "item": _encode(item)}
        return json.dumps(encoded, sort_keys=True, ensure_ascii=False)
    except TypeError as error:
        raise SelfimpError(
            f"an item cannot be stored: {error}",
            where=f"reasoning_gym family {family}",
            fix="choose another family",
        ) from error


def decode_item(entry: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Family, parameters and item of a stored task."""
    stored = json.loads(entry)
    return stored["family"], stored["parameters"], _decode(stored["item"])


def scorer(family: str, parameters: Mapping[str, Any]) -> Any:
    """The family's dataset object, of which only `score_answer` is meant to be used."""
    return _scorer(family, json.dumps(dict(parameters), sort_keys=True))


def is_graded(family: str) -> bool:
    """Whether the family has a scorer of its own, which may give part of the score.

    The inherited one gives part of the score only for text that contains the answer.
    """
    from reasoning_gym.dataset import ProceduralDataset

    dataset_class = _registered(family, family)[0]
    return bool(dataset_class.score_answer is not ProceduralDataset.score_answer)


@lru_cache(maxsize=64)
def _adapter(config_class: Any) -> TypeAdapter[Any]:
    return TypeAdapter(config_class)


@lru_cache(maxsize=64)
def _scorer(family: str, parameters: str) -> Any:
    where = f"reasoning_gym family {family}"
    config = family_config(family, json.loads(parameters), where, seed=0, size=1)
    return _registered(family, where)[0](config=config)


def _registered(family: str, where: str) -> tuple[Any, Any]:
    import reasoning_gym  # noqa: F401  registers the families
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        raise SelfimpError(
            f"reasoning_gym has no family {family!r}{_close(family, DATASETS)}",
            where=f"{where}.family",
            fix=f"use one of: {', '.join(sorted(DATASETS))}",
        )
    registered: tuple[Any, Any] = DATASETS[family]
    return registered


def _close(name: str, known: Any) -> str:
    matches = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def _mentioned(message: str, names: list[str]) -> list[str]:
    words = set(re.findall(r"\w+", message))
    return [name for name in names if name in words]


def _shown(config_class: Any, parameters: Mapping[str, Any]) -> str:
    defaults = {
        name: field.default
        for name, field in config_class.__dataclass_fields__.items()
        if name not in _CHOSEN_BY_THE_CAMPAIGN and isinstance(field.default, int | float | str)
    }
    return ", ".join(f"{name}={value!r}" for name, value in {**defaults, **parameters}.items())


def _cannot_generate(
    family: str, parameters: Mapping[str, Any], where: str, error: Exception
) -> SelfimpError:
    return SelfimpError(
        f"family {family!r} cannot generate items with {dict(parameters)}: {type(error).__name__}: {error}",
        where=where,
        fix="change its parameters (its defaults work)",
    )


def _encode(value: Any) -> Any:
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(inner) for key, inner in value.items()}
        return {"$map": [[_encode(key), _encode(inner)] for key, inner in value.items()]}
    if isinstance(value, list):
        return [_encode(inner) for inner in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(inner) for inner in value]}
    if isinstance(value, set | frozenset):
        return {"$set": sorted((_encode(inner) for inner in value), key=repr)}
    if isinstance(value, Fraction):
        return {"$fraction": str(value)}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "$map" in value:
        return {_decode(key): _decode(inner) for key, inner in value["$map"]}
    if "$tuple" in value:
        return tuple(_decode(inner) for inner in value["$tuple"])
    if "$set" in value:
        return {_decode(inner) for inner in value["$set"]}
    if "$fraction" in value:
        return Fraction(value["$fraction"])
    return {key: _decode(inner) for key, inner in value.items()}
