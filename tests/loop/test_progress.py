"""A round's long stages report how far they are to whoever asked to be shown."""

from collections.abc import Iterator
from contextlib import contextmanager

from home import Home

from selfimp_dagster.progress import Bar, showing


class _CountingBar:
    def __init__(self) -> None:
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount


class _Recorder:
    def __init__(self) -> None:
        self.stages: dict[str, tuple[float, float]] = {}

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        bar = _CountingBar()
        yield bar
        self.stages[label] = (bar.done, total)


def test_every_long_stage_of_a_round_is_shown_to_its_end(home: Home) -> None:
    recorder = _Recorder()
    with showing(recorder):
        home.run("tiny/0000")
    assert set(recorder.stages) == {
        "sampling",
        "training",
        "answering",
        "voting",
        "evaluating incumbent",
        "evaluating candidate",
        "rewording for incumbent",
        "rewording for candidate",
        "watching incumbent",
        "watching candidate",
    }
    assert all(done == total > 0 for done, total in recorder.stages.values())
