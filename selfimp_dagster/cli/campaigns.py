"""Campaign files: write, check and describe them."""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
import yaml
from rich.markup import escape

from selfimp_dagster.campaign import SUFFIX, Campaign, campaign_schema, load_campaign, parse_campaign
from selfimp_dagster.cli.app import app
from selfimp_dagster.console import console, print_rows
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.promotion import check_guard, lowest_level, power_table
from selfimp_dagster.presets import all_presets, find_preset
from selfimp_dagster.registry import all_methods
from selfimp_dagster.settings import settings

_PANEL = "Campaign files"


@app.command(rich_help_panel=_PANEL)
def init(name: Annotated[str, typer.Argument(help="Name of the new campaign.")]) -> None:
    """Write a new campaign file that explains itself, ready to run."""
    text = (files("selfimp_dagster") / "campaign_template.yaml").read_text().format(name=name)
    path = settings().campaigns / f"{name}{SUFFIX}"
    if path.exists():
        raise SelfimpError("it exists already", where=str(path), fix="choose another name, or edit that file")
    parse_campaign(yaml.safe_load(text), where=f"campaign {name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    console.print(f"Wrote {path}. Next: selfimp validate {name}, then selfimp run {name}.")


@app.command(rich_help_panel=_PANEL)
def validate(
    file: Annotated[Path, typer.Argument(help="A campaign file, or the name of a campaign.")],
) -> None:
    """Check a campaign file: fields, methods, task sources, pools, and the power of its test."""
    from selfimp_dagster.lifecycle.evaluation.items import evaluation_items, unusable_rows
    from selfimp_dagster.lifecycle.evaluation.twins import twin_items

    path = file if file.suffix or file.exists() else settings().campaigns / f"{file}{SUFFIX}"
    campaign = load_campaign(path)
    items = evaluation_items(campaign, 0, path.parent)
    asked = pl.concat([items, twin_items(campaign, 0, items)])
    print_rows(
        ("pool", "skill", "items"),
        asked.group_by("pool", "skill").len().sort("pool", "skill").iter_rows(),
        title=f"{campaign.name}: evaluation items of round 0000",
    )
    unusable = unusable_rows(campaign, path.parent)
    if not unusable.is_empty():
        print_rows(unusable.columns, unusable.iter_rows(), title="Left out of the task files")
    _print_power(campaign)
    console.print(f"[green]{path} is a valid campaign.")


def _print_power(campaign: Campaign) -> None:
    rule, items = campaign.promotion, campaign.tested_items
    print_rows(
        ("gain", f"seen with {items} items", f"items for {rule.power:g}"),
        (
            (f"{gain:g}", f"{power:.2f}", f"{needed:,}")
            for gain, power, needed in power_table(rule, items, campaign.continuation)
        ),
        title=f"Power of a round's test, level {lowest_level(rule, campaign.continuation):.3g}",
    )
    console.print(
        f"The level is the lowest before a first promotion, and the arms are taken to disagree on a share of "
        f"{rule.discordance:g} of the items (promotion.discordance), or of the gain if that is more.",
        highlight=False,
    )
    if rule.guard_margin is not None:
        console.print(
            f"A candidate just as good as its incumbent passes the guard with probability "
            f"{check_guard(rule, campaign.guard_items):.2f} (margin {rule.guard_margin:g}).",
            highlight=False,
        )


@app.command(rich_help_panel=_PANEL)
def methods() -> None:
    """List every method that a recipe can name: stage, survey section, paper, needs, parameters."""
    known = all_methods()
    print_rows(
        ("method", "stage", "survey", "paper", "needs"),
        ((m.name, m.stage, m.section, m.paper, ", ".join(sorted(m.needs))) for m in known),
    )
    for method in known:
        console.print(f"[bold]{method.name}[/bold]: {escape(method.summary)}", highlight=False)
        for name, field in method.parameters.model_fields.items():
            default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)}"
            console.print(f"    {name}{default}  [dim]{field.description}[/dim]", highlight=False)


@app.command(rich_help_panel=_PANEL)
def presets(
    name: Annotated[str | None, typer.Argument(help="Print the recipe of this preset.")] = None,
) -> None:
    """List the published methods that a recipe can name whole: `recipe: {preset: NAME}`."""
    if name is not None:
        preset = find_preset(name)
        console.print(escape(yaml.safe_dump(preset.recipe, sort_keys=False)), highlight=False, end="")
        return
    print_rows(
        ("preset", "method", "paper", "generation", "reward", "optimization"),
        (
            (name, p.title, p.paper, p.generation, p.reward, p.optimization)
            for name, p in all_presets().items()
        ),
    )
    for name, preset in all_presets().items():
        console.print(f"[bold]{name}[/bold]: {escape(preset.deviation)}", highlight=False)


@app.command(rich_help_panel=_PANEL)
def schema() -> None:
    """Print the JSON schema of a campaign file, for editors that complete and check YAML."""
    sys.stdout.write(json.dumps(campaign_schema(), indent=2, sort_keys=True) + "\n")
