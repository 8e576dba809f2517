"""What the documentation shows as code."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_BLOCK = re.compile(r"^ {4}(\S[^\n]*)$|^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BUILTINS = (".", "export")
_PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # active or not
_PROGRAM = re.compile(r"\s*(?:\w+=\S+ )*(?:\.venv/bin/)?([\w.-]+)(?: -m (\w+))?(?: |$)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, order=True)
class Call:
    """A call of a program: what is set before it, and its arguments as they are written."""

    environment: str
    arguments: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.arguments, comments=True)

    def __str__(self) -> str:
        return f"{self.environment}{self.arguments}"


def calls(program: str, pages: Iterable[Path] = PAGES) -> list[Call]:
    """Every different call of a program in these pages, in the text and apart from it."""
    pattern = re.compile(rf"\s*((?:\w+=\S+ )*)(?:\.venv/bin/)?{program}(?: +(.+))?$")
    found = set()
    for page in pages:
        for code in _lines(page.read_text(encoding="utf-8")):
            match = pattern.match(code)
            if match and not (match[2] or "").startswith("<"):
                found.add(Call(match[1], (match[2] or "").strip()))
    return sorted(found)


def programs() -> set[str]:
    """What is called on lines of their own, as `python -m benchmarks` where a module is run."""
    found = set()
    for page in PAGES:
        for indented, language, fenced in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in [indented] if indented else fenced.splitlines() if language in ("", "sh") else []:
                match = _PROGRAM.match(line)
                if match and (shutil.which(match[1], path=_PROGRAMS) or match[1] in _BUILTINS):
                    found.add(f"{match[1]} -m {match[2]}" if match[2] else match[1])
    return found


def fences(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content."""
    return _FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


def _lines(text: str) -> Iterator[str]:
    """Every piece of code in a page, line by line."""
    yield from (match[1] for match in _INLINE.finditer(text))
    for match in _BLOCK.finditer(text):
        yield from (match[1] or match[3]).splitlines()
