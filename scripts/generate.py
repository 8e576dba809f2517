"""Writes the files that follow from the code: the schema of campaign files and the page of methods."""

import json
from pathlib import Path

from pydantic.fields import FieldInfo

from selfimp_dagster.campaign import campaign_schema
from selfimp_dagster.registry import STAGES, Method, all_methods

ROOT = Path(__file__).parents[1]

METHODS_HEAD = """\
# Methods

What a recipe can name, by stage; `selfimp methods` prints the same. Parameters are written beside the
method's name in the campaign file. Section numbers are those of the survey
"Self-Improvement of Large Language Models" ([arXiv:2603.25681](https://arxiv.org/abs/2603.25681), version 3).

<!-- Made by `make generate` from the methods themselves; do not edit. -->
"""


def generated() -> dict[Path, str]:
    """Every generated file with the text that it must have."""
    schema = json.dumps(campaign_schema(), indent=2, sort_keys=True) + "\n"
    return {ROOT / "campaigns/campaign.schema.json": schema, ROOT / "docs/methods.md": _methods_page()}


def _methods_page() -> str:
    parts = [METHODS_HEAD]
    for stage in STAGES:
        parts.append(f"\n## {stage.capitalize()}\n")
        parts += [_method(method) for method in all_methods() if method.stage == stage]
    return "".join(parts)


def _method(method: Method) -> str:
    needs = f" Needs: {', '.join(sorted(method.needs))}." if method.needs else ""
    text = f"\n### `{method.name}`\n\n{method.summary}\nSection {method.section}; {method.paper}.{needs}\n"
    fields = method.parameters.model_json_schema(ref_template="{model}").get("properties", {})
    if not fields:
        return text + "\nNo parameters.\n"
    models = method.parameters.model_fields
    rows = [
        f"| `{name}` | {_default(models[name])} | {field.get('description', '')} |\n"
        for name, field in fields.items()
    ]
    return text + "\n| parameter | default | meaning |\n|---|---|---|\n" + "".join(rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "model_dump"):
        return (
            f"`{{{', '.join(f'{name}: {json.dumps(inner)}' for name, inner in value.model_dump().items())}}}`"
        )
    return f"`{json.dumps(value)}`"


def main() -> None:
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
