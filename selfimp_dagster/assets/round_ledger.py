import dagster as dg
import polars as pl

from selfimp_dagster import __version__
from selfimp_dagster.assets.eval_report import eval_report
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import read_directives, sentences
from selfimp_dagster.lifecycle.evaluation.report import dimensions_of
from selfimp_dagster.lifecycle.ledger import newest_lines, read_fates, read_ledger, write_ledger
from selfimp_dagster.lifecycle.oversight import oversight_tables
from selfimp_dagster.lineage.round_tree import change
from selfimp_dagster.pictures import (
    accuracy_over_rounds,
    cost_over_rounds,
    dimensions_over_rounds,
    round_tree,
)
from selfimp_dagster.presentation import picture, readable_failures, report_links, table
from selfimp_dagster.records import content_hash
from selfimp_dagster.report import refresh_reports, reports_folder
from selfimp_dagster.resources.workbench import WorkbenchResource


@dg.asset(
    deps=[eval_report],
    group_name="round",
    owners=["team:selfimp"],
    kinds={"duckdb", "parquet"},
    code_version=__version__,
)
def round_ledger(context: dg.AssetExecutionContext, workbench: WorkbenchResource) -> dg.MaterializeResult:
    """One row per round over all campaigns: parent, hashes, scores, verdict, decision, cost.

    Rounds that cannot be read, since the store was damaged, are left out and named. With the ledger the
    report of each campaign is written anew. A report that cannot be written is an error in the log and in
    the metadata, and no failure: the ledger stands.
    """
    unreadable: list[SelfimpError] = []
    with readable_failures():
        ledger = read_ledger(workbench.artifacts, unreadable=unreadable)
        directives = read_fates(workbench.artifacts, ledger["round"])
        path = write_ledger(workbench.artifacts, ledger, directives)
        lines = {
            line[-1].campaign: dimensions_of(workbench.artifacts, line).to_dicts()
            for line in newest_lines(workbench.artifacts, ledger)
        }
        standings, interventions = oversight_tables(workbench.artifacts)
    for error in unreadable:
        context.log.warning(f"left out of the ledger: {error}")
    reports, failed = refresh_reports(workbench.artifacts)
    for campaign, why in failed.items():
        context.log.error(f"The report of {campaign} could not be written. {why}")
    rows = ledger.to_dicts()
    parents = {row["round"]: row for row in rows}
    told = ledger.select("round", "verdict", "decision").with_columns(
        directives=pl.Series([sentences(read_directives(row["directives"])) for row in rows], dtype=pl.String)
    )
    changed = [change(row, parents.get(row["parent"])) for row in rows]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(content_hash(rows)),
        metadata={
            "dagster/row_count": ledger.height,
            "reports": report_links(reports),
            "round_tree": picture(round_tree(rows), "tree of rounds"),
            "rounds_left_out": dg.MetadataValue.md("\n\n".join(map(str, unreadable)) or "none"),
            "accuracy_over_rounds": picture(accuracy_over_rounds(rows), "accuracy over rounds"),
            "cost_over_rounds": picture(cost_over_rounds(rows), "cost over rounds"),
            **{
                f"dimensions_of_{campaign}": picture(
                    dimensions_over_rounds(measured), f"the four dimensions of {campaign}"
                )
                for campaign, measured in lines.items()
            },
            "rounds": table(ledger.select(_scores(ledger, changed)), limit=200),
            "verdicts": table(told, limit=200),
            "directives": table(directives.drop("before", "after"), limit=200),
            "standing": table(standings, limit=200),
            "interventions": table(interventions, limit=50),
            "reports_not_written": dg.MetadataValue.json(failed),
            "reports_folder": dg.MetadataValue.path(str(reports_folder(workbench.artifacts))),
            "ledger": dg.MetadataValue.path(str(path)),
        },
    )


def _scores(ledger: pl.DataFrame, changed: list[str]) -> list[pl.Expr | pl.Series]:
    """The columns that fit on a page: where a round started, what it changed, what it cost."""
    suites = [
        suite
        for suite in ("anchor", "fresh", "guard")
        if ledger[f"candidate_{suite}"].null_count() < ledger.height
    ]
    return [
        pl.col("round"),
        pl.col("parent"),
        pl.when("champion").then(pl.lit("promoted, champion")).otherwise(pl.col("status")).alias("status"),
        pl.Series("changed in the recipe", changed, dtype=pl.String),
        *(
            pl.format(
                "{} -> {}",
                pl.col(f"incumbent_{suite}").round(3),
                pl.col(f"candidate_{suite}").round(3),
            ).alias(suite)
            for suite in suites
        ),
        pl.col("weights_round").fill_null("base model").alias("started from"),
        pl.col("alarms"),
        pl.col("p_value"),
        pl.col("tokens"),
        pl.col("seconds").round(1),
    ]
