"""What the documentation mentions exists: files, commands, options, make targets, fields, checks."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from typer.main import get_command

from selfimp_dagster.campaign import campaign_schema, parse_campaign
from selfimp_dagster.cli import app
from selfimp_dagster.definitions import defs
from selfimp_dagster.lifecycle.evaluation.dimensions import MEASURES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EVERYWHERE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

_LINK = re.compile(r"\]\(([^)\s]+(?:\([^)\s]*\)[^)\s]*)*)\)")
_HTML_IMAGE = re.compile(r"<img[^>]*\bsrc=\"([^\"]+)\"")
_INLINE_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_CODE_LINE = re.compile(r"^ {4}(\S.*)$|^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FIELD_ROW = re.compile(r"^\| `([a-z_.<>]+)` \|", re.MULTILINE)


def _commands(text: str) -> Iterator[str]:
    """Every piece of code in a page, line by line."""
    yield from (match[1] for match in _INLINE_CODE.finditer(text))
    for match in _CODE_LINE.finditer(text):
        yield from (match[1] or match[2]).splitlines()


def _called(program: str) -> list[str]:
    """The arguments of every call of a program in the documentation."""
    calls = []
    for code in _commands(EVERYWHERE):
        match = re.match(rf"\s*(?:\S+=\S+ )*(?:\.venv/bin/)?{program} (.+)", code)
        if match and not match[1].startswith("<"):
            calls.append(match[1])
    return sorted(set(calls))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [*(m[1] for m in _LINK.finditer(text)), *(m[1] for m in _HTML_IMAGE.finditer(text))]
    local = [target for target in targets if not target.startswith(("http://", "https://", "#"))]
    missing = [t for t in local if not (page.parent / unquote(t.partition("#")[0])).exists()]
    assert not missing


@pytest.mark.parametrize("call", _called("selfimp"))
def test_command_exists(call: str) -> None:
    name, *arguments = shlex.split(call, comments=True)
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    given = [argument for argument in arguments if argument.startswith("-")]
    assert set(given) <= options
    values = len(given)  # every option of the command line takes a value
    positional = sum(parameter.param_type_name == "argument" for parameter in command.params)
    assert len(arguments) - len(given) - values <= positional


def test_every_command_is_documented() -> None:
    documented = {call.split()[0] for call in _called("selfimp")}
    assert documented == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {target for call in _called("make") for target in call.partition("#")[0].split()[:1]}
    assert mentioned
    assert mentioned <= targets
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_campaign_fields_are_the_documented_ones() -> None:
    documented = _FIELD_ROW.findall((ROOT / "docs/campaign.md").read_text())
    schema = campaign_schema()
    assert set(documented) == set(_fields(schema, schema["$defs"], ""))


def _fields(node: dict[str, Any], definitions: dict[str, Any], name: str) -> Iterator[str]:
    """Dotted names: all top-level fields, and the innermost fields below them.

    Task sources are documented under `skills` for `guard` too, methods on a page of their own.
    """
    inside = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    reference = node.get("$ref", "").rpartition("/")[2]
    if reference and reference not in ("acquisition", "optimization", "refinement"):
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
