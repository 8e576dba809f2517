"""docs/lab.md lists every failure with what must catch it."""

import re

from pages import ROOT

from selfimp_dagster.lab.failures import FAILURES

_ROW = re.compile(r"^\| `([a-z-]+)` \|[^|]+\|([^|]*)\|$", re.MULTILINE)
_NAME = re.compile(r"`(\w+)`")


def test_the_page_lists_every_failure_and_what_must_catch_it() -> None:
    rows = _ROW.findall((ROOT / "docs/lab.md").read_text(encoding="utf-8"))
    listed = {name: tuple(_NAME.findall(caught)) for name, caught in rows}
    assert listed == {name: failure.expected for name, failure in FAILURES.items()}
