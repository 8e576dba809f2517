"""The failure lab: failures made on purpose, and whether a monitor catches them."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.markup import escape

from selfimp_dagster.cli.app import app
from selfimp_dagster.console import console, print_rows
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.settings import settings

lab = typer.Typer(
    no_args_is_help=True,
    help="Make a failure on purpose in a real campaign on the testbed, and see whether a monitor catches it. "
    "All of it happens in a home of its own, the folder `lab` of the installation's.",
)
app.add_typer(lab, name="lab", rich_help_panel="This machine")


@lab.command("list")
def list_failures() -> None:
    """Show every failure: what it does, what the survey calls it, and what must catch it."""
    from selfimp_dagster.lab.failures import FAILURES

    rows = [
        (
            failure.name,
            failure.summary,
            failure.survey,
            " or ".join(failure.expected),
            ", ".join(f"{name}={field.default}" for name, field in failure.parameters.model_fields.items()),
        )
        for failure in FAILURES.values()
    ]
    print_rows(("failure", "what goes wrong", "survey", "caught by", "parameters"), rows)


@lab.command("run")
def run_lab(
    failure: Annotated[str, typer.Argument(help="Name of a failure, see `selfimp lab list`.")],
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds at most; else as many as it may take.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the campaign.")] = 0,
    home: Annotated[
        Path | None, typer.Option(help="Home of the lab; else the folder `lab` of SELFIMP_HOME.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="A parameter of the failure; may be given several times."
        ),
    ] = None,
) -> None:
    """Run a failure until it is caught, and say by what, in which round, after how many samples."""
    from selfimp_dagster.lab.failures import find_failure
    from selfimp_dagster.lab.outcome import append
    from selfimp_dagster.lab.run import Lab, run_failure
    from selfimp_dagster.lab.tables import print_outcomes
    from selfimp_dagster.progress import TerminalProgress, showing

    found = find_failure(failure)
    where = Lab(home or settings().home / "lab")
    try:
        chosen = found.parameters.model_validate(_values(parameters or []))
    except ValidationError as error:
        problem = error.errors()[0]
        raise SelfimpError(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
            where=f"selfimp lab run {failure}",
            fix=f"its parameters are: {', '.join(found.parameters.model_fields) or 'none'}",
        ) from error
    with showing(TerminalProgress()):
        outcome = run_failure(
            found, chosen, where, seed=seed, rounds=rounds, tell=lambda line: console.print(escape(line))
        )
    append(where.outcomes, outcome)
    print_outcomes([outcome])
    for round_ in outcome.rounds:
        for name, sentence in round_.alarms.items():
            console.print(escape(f"{round_.number:04} {name}: {sentence}"), highlight=False)
        if round_.ended:
            console.print(escape(f"{round_.number:04} {round_.ended}: {round_.why}"), highlight=False)


@lab.command()
def report(
    home: Annotated[
        Path | None, typer.Option(help="Home of the lab; else the folder `lab` of SELFIMP_HOME.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write a picture of the table to this PNG file.")
    ] = None,
) -> None:
    """Show what came of all runs of the lab: catches by failure, and false alarms of healthy campaigns."""
    from selfimp_dagster.lab.outcome import read
    from selfimp_dagster.lab.run import Lab
    from selfimp_dagster.lab.tables import outcomes_picture, print_false_alarms, print_outcomes
    from selfimp_dagster.store import write_file

    outcomes = read(Lab(home or settings().home / "lab").outcomes)
    if not outcomes:
        console.print("Nothing was run in the lab yet. Start with: selfimp lab list")
        return
    print_outcomes(outcomes)
    print_false_alarms(outcomes)
    if picture:
        write_file(picture, outcomes_picture(outcomes))


def _values(settings: list[str]) -> dict[str, Any]:
    pairs = (setting.partition("=") for setting in settings)
    return {name: yaml.safe_load(text) for name, _, text in pairs}
