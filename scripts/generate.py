"""Writes the files that follow from the code: the campaign schema, and the pages of methods and presets."""

import json
from pathlib import Path

import yaml
from pydantic.fields import FieldInfo

from selfimp_dagster.campaign import Recipe, campaign_schema
from selfimp_dagster.presets import Preset, all_presets
from selfimp_dagster.registry import STAGES, Method, all_methods

ROOT = Path(__file__).parents[1]

METHODS_HEAD = """\
# Methods

What a recipe can name, by stage; `selfimp methods` prints the same. Parameters are written beside the
method's name in the campaign file. Section numbers are those of the survey
"Self-Improvement of Large Language Models" ([arXiv:2603.25681](https://arxiv.org/abs/2603.25681), version 3).

<!-- Made by `make generate` from the methods themselves; do not edit. -->
"""

PRESETS_HEAD = """\
# Presets

A preset is a published method as one recipe, from the survey's Table 6: a generation (SE: the policy by
itself, R: it improves a first answer, I: several roles or agents), a reward (H: heuristic, M: model, V:
verification) and an optimization. A campaign names one, and may change any field of it:

```yaml
recipe:
  preset: scpo
  acquisition: {samples_per_task: 4}
  optimization: {learning_rate: 1.0e-5}
```

Fields are put over those of the preset as a [branch](branches.md) puts its changes over a recipe: parameter
by parameter where the method stays, whole where another method is named, and lists (`rewards`, `selection`)
are given whole. What is stored of a round is the recipe written out, so a later version of a preset changes
no earlier round. `--set preset=scpo` and a strategy `{preset: scpo}` put the preset in the place of the whole
recipe.

`selfimp presets` lists them, `selfimp presets scpo` prints the recipe of one. Learning rates, numbers of
tokens and sizes are the defaults of the methods: set them to your model. Refinement is no part of these
methods: it stands there to be measured, and what it accepts is not added to the next corpus. Judges are tried
on the gold probe like all [judges](judges.md), also where a policy judges its own samples (`own_samples`).

One small round of each on SmolLM2-135M-Instruct is in the
[benchmarks](../benchmarks/README.md#one-round-of-every-preset): what was measured, and what stopped the ten
that ask more than this model can do.

<!-- Made by `make generate` from the files in selfimp_dagster/presets; do not edit. -->

"""


def generated() -> dict[Path, str]:
    """Every generated file with the text that it must have."""
    schema = json.dumps(campaign_schema(), indent=2, sort_keys=True) + "\n"
    return {
        ROOT / "campaigns/campaign.schema.json": schema,
        ROOT / "docs/methods.md": _methods_page(),
        ROOT / "docs/presets.md": _presets_page(),
    }


def _presets_page() -> str:
    presets = all_presets()
    rows = [_preset_row(name, preset) for name, preset in presets.items()]
    head = "| preset | method | triple | needs |\n|---|---|---|---|\n"
    parts = [_preset(name, preset) for name, preset in presets.items()]
    return PRESETS_HEAD + head + "".join(rows) + "".join(parts)


def _preset_row(name: str, preset: Preset) -> str:
    needs = ", ".join(sorted(Recipe.model_validate(preset.example).needs))
    triple = f"{preset.generation} x {preset.reward} x {preset.optimization}"
    return f"| [`{name}`](#{name}) | {preset.title} | {triple} | {needs} |\n"


def _preset(name: str, preset: Preset) -> str:
    recipe = yaml.safe_dump(preset.recipe, sort_keys=False)
    given = yaml.safe_dump(preset.given, sort_keys=False) if preset.given else ""
    asked = f"\nA campaign must give, for example:\n\n```yaml\n{given}```\n" if given else ""
    return (
        f"\n## {name}\n\n{preset.title}, {preset.paper}. Differs from the paper: {preset.deviation}\n\n"
        f"```yaml\n{recipe}```\n{asked}"
    )


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
