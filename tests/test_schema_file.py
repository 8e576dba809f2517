"""Files that follow from the code are current, and the schema fits what campaigns really say."""

import json
import runpy
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
CAMPAIGNS = sorted((ROOT / "campaigns").glob("*.yaml"))
GENERATED: dict[Path, str] = runpy.run_path(str(ROOT / "scripts/generate.py"))["generated"]()


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((ROOT / "campaigns/campaign.schema.json").read_text())


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_file_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == GENERATED[path], "run `make generate`"


def test_schema_is_a_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_campaign_fits_the_schema(schema: dict[str, Any], path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_template_fits_the_schema(schema: dict[str, Any]) -> None:
    template = (files("selfimp_dagster") / "campaign_template.yaml").read_text().format(name="new")
    jsonschema.validate(yaml.safe_load(template), schema)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"pools": {"train": "many"}},
        {"recipe": {"optimization": {"method": "sft", "epoch": 2}}},
        {"recipe": {"refinement": {"method": "magic"}}},
    ],
    ids=["unknown field", "wrong type", "unknown parameter", "unknown method"],
)
def test_schema_refuses(schema: dict[str, Any], change: dict[str, Any]) -> None:
    campaign = yaml.safe_load(CAMPAIGNS[0].read_text())
    for field, value in change.items():
        campaign[field] = {**campaign.get(field, {}), **value} if isinstance(value, dict) else value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(campaign, schema)
