"""The command line's application: every module beside this one adds its commands to it."""

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Closed-loop self-improvement of language models.

A **campaign** (one YAML file) improves a model in **rounds**. A round samples from the incumbent,
selects what is worth learning, trains a candidate, refines its outputs, and measures both; the
verdict promotes the candidate or not, and the decision says whether a next round starts.

Start with `selfimp validate arithmetic`, then `selfimp run arithmetic --rounds 2`, then `selfimp ui`.
""",
)

CampaignName = Annotated[str, typer.Argument(help="Name of a campaign in the campaigns folder.")]
