"""Texts that tasks are made from: files of the user's, and the documentation of Python's own modules."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.rouge import words
from selfimp_dagster.records import DOCUMENTS, content_id, frame

_MODULE = "python:"
_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Documents(BaseModel):
    """Parameters of every method that reads texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: tuple[str, ...] = Field(
        min_length=1,
        description="Text files, or patterns of them (`notes/*.txt`), relative to the folder of the campaign "
        "file; `python:json` is the documentation within that module of Python's standard library.",
    )
    passage: int = Field(default=800, ge=100, description="Characters of a text that are read together.")


def passages_of(folder: Path, parameters: Documents) -> pl.DataFrame:
    """The passages of the documents, each once (records.DOCUMENTS, all kept): whole paragraphs, cut off where
    one alone is longer.

    Raises:
        SelfimpError: there are none, or there is no such module.
    """
    rows = [
        {
            "document_id": content_id("passage", source, passage),
            "source": source,
            "title": title if number == 1 else f"{title}, passage {number}",
            "text": passage,
            "kept": True,
            "reason": "read",
        }
        for named in parameters.documents
        for source, title, text in _texts(folder, named)
        for number, passage in enumerate(_passages(text, parameters.passage), start=1)
    ]
    if not rows:
        raise SelfimpError(
            f"no text in {', '.join(parameters.documents)}",
            where="recipe.acquisition.documents",
            fix="name text files relative to the folder of the campaign file, or modules as python:json",
        )
    return frame(rows, DOCUMENTS).unique("document_id", keep="first", maintain_order=True)


def stands_in(answer: str, text: str) -> bool:
    """Whether the words of the answer stand in the text, in their order and next to each other."""
    return f" {' '.join(words(answer))} " in f" {' '.join(words(text))} "


def _texts(folder: Path, named: str) -> Iterator[tuple[str, str, str]]:
    """Source, title and text of what one entry of `documents` names."""
    if named.startswith(_MODULE):
        yield from _docstrings(named.removeprefix(_MODULE))
        return
    for path in sorted(folder.glob(named)):
        name = path.relative_to(folder).as_posix()
        yield name, name, path.read_text(encoding="utf-8", errors="replace")


def _docstrings(module: str) -> Iterator[tuple[str, str, str]]:
    """The docstrings of a module, which is read and not imported, of its classes and of their functions."""
    root = module.partition(".")[0]
    spec = find_spec(module) if root in sys.stdlib_module_names else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SelfimpError(
            f"Python's standard library has no module {module!r} that is written in Python",
            where="recipe.acquisition.documents",
            fix="name one such as python:json, python:statistics or python:textwrap",
        )
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    yield from _docstrings_in(tree, module, module)


def _docstrings_in(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, module: str
) -> Iterator[tuple[str, str, str]]:
    if text := ast.get_docstring(node):
        yield module, name, text
    for inner in node.body:
        if isinstance(inner, _NAMED) and not inner.name.startswith("_"):
            yield from _docstrings_in(inner, f"{name}.{inner.name}", module)


def _passages(text: str, longest: int) -> Iterator[str]:
    """Neighbouring paragraphs together, as many as fit."""
    held = ""
    for paragraph in filter(None, (part.strip() for part in re.split(r"\n\s*\n", text))):
        if held and len(held) + 2 + len(paragraph) > longest:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}".strip()[:longest]
    if held:
        yield held


def chosen_passages(passages: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    """So many of the passages at random, or all."""
    return passages.sample(min(most, passages.height), seed=seed % 2**32, shuffle=True)
