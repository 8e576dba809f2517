"""How long work shows that it is getting on: a bar in a terminal, a line in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.text import Text


class Bar(Protocol):
    """One long stage under way. `tokens` are those read and generated since: they are shown nowhere."""

    def advance(self, amount: float = 1, *, tokens: int = 0) -> None: ...


class Progress(Protocol):
    """Opens a bar for a stage of `total` units; the bar closes with the context."""

    def stage(self, label: str, total: float, unit: str) -> AbstractContextManager[Bar]: ...


_shown: ContextVar[Progress | None] = ContextVar("shown", default=None)


@contextmanager
def showing(progress: Progress) -> Iterator[None]:
    """Rounds that run within this context show their progress here instead of in Dagster's log.

    A context variable, because Dagster makes the resources of a run anew from their configuration.
    """
    token = _shown.set(progress)
    try:
        yield
    finally:
        _shown.reset(token)


def shown_or(default: Progress) -> Progress:
    """Where progress is shown now: what `showing` says, else the default."""
    return _shown.get() or default


class _LogBar:
    def __init__(self, log: Callable[[str], None], label: str, total: float, unit: str, every: float) -> None:
        self._log, self._label, self._total, self._unit, self._every = log, label, total, unit, every
        self._done = 0.0
        self._started = self._last = time.monotonic()

    def advance(self, amount: float = 1, *, tokens: int = 0) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= self._every and self._done < self._total:
            self._last = now
            self._log(self._line(now))

    def finish(self) -> None:
        self._log(self._line(time.monotonic()))

    def _line(self, now: float) -> str:
        elapsed = max(now - self._started, 1e-9)
        rate = self._done / elapsed
        line = (
            f"{self._label}: {self._done:,.0f}/{self._total:,.0f} {self._unit}, "
            f"{rate:,.1f} {self._unit}/s, {elapsed:.0f} s gone"
        )
        if 0 < self._done < self._total:
            line += f", about {(self._total - self._done) / rate:.0f} s left"
        return line


class LogProgress:
    """Writes a line with rate and time left every `every` seconds: for Dagster's log."""

    def __init__(self, log: Callable[[str], None], every: float = 10.0) -> None:
        self._log = log
        self._every = every

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        bar = _LogBar(self._log, label, total, unit, self._every)
        yield bar
        bar.finish()


class _Alive:
    def __init__(self, outer: Bar) -> None:
        self._outer = outer

    def advance(self, amount: float = 1, *, tokens: int = 0) -> None:
        self._outer.advance(0, tokens=tokens)


class Inside:
    """Progress of stages inside another: they have no bars, but that one's shows that it is alive."""

    def __init__(self, outer: Bar) -> None:
        self._outer = outer

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        yield _Alive(self._outer)


class _RateColumn(ProgressColumn):
    """The rate of the last half minute while a stage is under way, that of the whole stage at its end."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        return Text(f"{speed:,.1f} {task.fields['unit']}/s" if speed else "", style="cyan")


class _RichBar:
    def __init__(self, bars: RichBars, task: int) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: float = 1, *, tokens: int = 0) -> None:
        self._bars.advance(self._task, amount)  # type: ignore[arg-type]


class TerminalProgress:
    """A live bar with rate and time left for each stage: for the command line.

    Made before a run begins: Dagster sends the standard output of a step to its compute log, so the
    terminal is kept under a descriptor of its own.
    """

    def __init__(self) -> None:
        self._console = Console(file=os.fdopen(os.dup(sys.stdout.fileno()), "w"))

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            _RateColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with RichBars(*columns, console=self._console) as bars:
            yield _RichBar(bars, bars.add_task(label, total=total, unit=unit))
