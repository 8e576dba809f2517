"""What the documentation mentions exists: files, commands, make targets, fields, checks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from pages import PAGES, ROOT, calls
from typer.main import get_command

from selfimp_dagster.campaign import campaign_schema, parse_campaign
from selfimp_dagster.cli import app
from selfimp_dagster.definitions import defs
from selfimp_dagster.lifecycle.evaluation.dimensions import MEASURES

_LINK = re.compile(r"\]\(([^)\s]+(?:\([^)\s]*\)[^)\s]*)*)\)")
_HTML_IMAGE = re.compile(r"<img[^>]*\bsrc=\"([^\"]+)\"")
_FIELD_ROW = re.compile(r"^\| `([a-z_.<>]+)` \|", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [*(m[1] for m in _LINK.finditer(text)), *(m[1] for m in _HTML_IMAGE.finditer(text))]
    local = [target for target in targets if not target.startswith(("http://", "https://", "#"))]
    missing = [t for t in local if not (page.parent / unquote(t.partition("#")[0])).exists()]
    assert not missing


def test_every_command_is_documented() -> None:
    documented = {call.words[0] for call in calls("selfimp") if call.words}
    assert documented == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {target for call in calls("make") for target in call.words[:1]}
    assert mentioned
    assert mentioned <= targets
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_campaign_fields_are_the_documented_ones() -> None:
    documented = _FIELD_ROW.findall((ROOT / "docs/campaign.md").read_text())
    schema = campaign_schema()
    assert set(documented) == set(_fields(schema, schema["$defs"], ""))


_ELSEWHERE = ("curriculum", "acquisition", "optimization", "refinement", "Sampling")
"""What has its fields on another page: methods, and how tokens are drawn, which is a parameter of many."""


def _fields(node: dict[str, Any], definitions: dict[str, Any], name: str) -> Iterator[str]:
    """Dotted names: all top-level fields, and the innermost fields below them.

    Task sources are documented under `skills` for `guard` too.
    """
    if name == "evolution.proposer":
        return  # docs/judges.md
    inside = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    reference = node.get("$ref", "").rpartition("/")[2]
    if reference and reference not in _ELSEWHERE:
        inside.append(definitions[reference])
    for part in inside:
        yield from _fields(part, definitions, name)
    if name == "skills":
        yield from _fields(node["additionalProperties"], definitions, "skills.<name>")
    for field, value in node.get("properties", {}).items():
        path = f"{name}.{field}" if name else field
        below = list(_fields(value, definitions, path))
        if not name or not below:
            yield path
        yield from below


def test_checks_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| (`.+`) \| `\w+` \| (yes|no) \|$", (ROOT / "docs/concepts.md").read_text(), re.M)
    documented = {(name, blocks == "yes") for names, blocks in rows for name in re.findall(r"`(\w+)`", names)}
    specs = [spec for check in defs.asset_checks or () for spec in check.check_specs]
    assert documented == {(spec.name, spec.blocking) for spec in specs}


def test_measures_are_the_documented_ones() -> None:
    page = (ROOT / "docs/dimensions.md").read_text()
    documented = [
        (name, section.partition("\n")[0].lower(), unit)
        for section in page.split("\n## ")[1:]
        for name, unit in re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.MULTILINE)
    ]
    assert documented == [(name, measure.dimension, measure.unit) for name, measure in MEASURES.items()]


def test_assets_are_the_documented_ones() -> None:
    readme = (ROOT / "README.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \| ", readme, re.MULTILINE))
    assert documented == {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}


def test_campaign_of_the_readme_is_valid() -> None:
    campaign = re.search(r"^```yaml\n(name: .*?)^```", (ROOT / "README.md").read_text(), re.M | re.DOTALL)
    assert campaign is not None
    assert parse_campaign(yaml.safe_load(campaign[1]), where="README.md").name == "mine"
