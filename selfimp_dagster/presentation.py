"""How library values look in the Dagster UI: links, tables, pictures, readable failures."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.cost import StageCost
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.policy import child_rounds, read_policy
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.run_history import lost_history
from selfimp_dagster.store import Artifact, ArtifactStore

_SAMPLE_ROWS = 10


def round_link(asset: str, key: RoundKey | str) -> dg.UrlMetadataValue:
    """A link to one partition of an asset, relative to the UI's root."""
    return dg.MetadataValue.url(f"/assets/{asset}?view=partitions&partition={quote(str(key), safe='')}")


def lineage_links(store: ArtifactStore, asset: str, key: RoundKey) -> dict[str, dg.MetadataValue]:
    """Where one click leads from an asset of a round: up the tree of rounds, down it, and to other stages."""
    policy, _ = read_policy(store, key)
    links: dict[str, dg.MetadataValue] = {}
    if policy.parent is not None:
        links["parent_round"] = round_link("eval_report", policy.parent)
        links["parent_checkpoint"] = round_link("checkpoint", policy.parent)
    links["weights"] = (
        dg.MetadataValue.text(f"base model {policy.campaign.model}")
        if policy.weights_round is None
        else round_link("checkpoint", policy.weights_round)
    )
    return {
        **links,
        **child_links(store, key),
        **{f"stage_{stage}": round_link(stage, key) for stage in STAGES if stage != asset},
    }


def child_links(store: ArtifactStore, key: RoundKey) -> dict[str, dg.MetadataValue]:
    """A link to each round that was started from this one."""
    return {
        f"child_round_{child.number:04d}": round_link("incumbent_policy", child)
        for child in child_rounds(store, key)
    }


def report_links(reports: Mapping[str, Path]) -> dg.MarkdownMetadataValue:
    """A link to each campaign's report, relative to the UI's root: `selfimp ui` serves them."""
    links = [f"* [{campaign}](/{path.parent.name}/{path.name})" for campaign, path in reports.items()]
    return dg.MetadataValue.md("\n".join(links))


def picture(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """A picture that travels inside the metadata, so that the UI needs nothing else to show it."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def table(rows: pl.DataFrame, limit: int = _SAMPLE_ROWS) -> dg.TableMetadataValue:
    """The first rows as a table; numbers are rounded, long text is cut."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({name: _cell(value) for name, value in row.items()})
            for row in rows.head(limit).iter_rows(named=True)
        ],
        schema=dg.TableSchema(
            [dg.TableColumn(name, _column_type(kind)) for name, kind in rows.schema.items()]
        ),
    )


def _column_type(kind: pl.DataType) -> str:
    if kind.is_integer():
        return "int"
    if kind.is_float():
        return "float"
    return "bool" if kind == pl.Boolean else "string"


def _cell(value: Any) -> str | int | float | bool | None:
    if isinstance(value, float):
        return round(value, 4)
    if value is None or isinstance(value, bool | int):
        return value
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def materialized(artifact: Artifact, metadata: Mapping[str, Any]) -> dg.MaterializeResult:
    """The artifact as a materialization: its content hash is the data version."""
    measured = artifact.measurements
    costs: dict[str, Any] = {}
    if measured:
        told = StageCost(**{name: measured[name] for name in StageCost.model_fields if name in measured})
        costs = told.model_dump(exclude_none=True) | {"seconds": round(told.seconds, 1)}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.data_version),
        metadata={
            **{name: _number(value) for name, value in metadata.items()},
            **costs,
            "artifact": dg.MetadataValue.path(str(artifact.folder)),
        },
    )


def _number(value: Any) -> Any:
    """Floats to six significant digits: the exact ones are in the artifact."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turns an error that is written for people into a failed step that shows just that.

    Such an error would come again on every retry. The loss of the database of the runs is one: it shows here
    because progress is logged there.
    """
    try:
        yield
    except Exception as error:
        readable = error if isinstance(error, SelfimpError) else lost_history(error)
        if readable is None:
            raise
        raise dg.Failure(
            description=str(readable),
            metadata={"what": readable.what, "where": readable.where, "fix": readable.fix},
            allow_retries=False,
        ) from error
