"""`selfimp`: the same definitions and decision functions as the Dagster UI, from a terminal."""

# Importing a module adds its commands to the help, in this order.
from selfimp_dagster.cli import campaigns, rounds, oversight, lineage, lab, machine  # noqa: F401, I001
from rich.markup import escape

from selfimp_dagster.cli.app import app
from selfimp_dagster.console import console
from selfimp_dagster.errors import SelfimpError


def main() -> None:
    """The entry point: errors that are written for people are shown as such."""
    try:
        app()
    except SelfimpError as error:
        console.print(
            f"[red]{escape(error.where)}:[/red] {escape(error.what)}\n  [bold]->[/bold] {escape(error.fix)}",
            highlight=False,
        )
        raise SystemExit(1) from None
