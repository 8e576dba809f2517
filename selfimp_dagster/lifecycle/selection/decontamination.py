"""Remove what would teach the evaluation items.

Generated tasks share templates: "What is 12 + 45? Answer with only the final answer." has most of
its n-grams in common with every other sum, so plain n-gram overlap would drop the whole corpus. A
row is contaminated when one of its texts (the prompt, any message, the response)

1. contains the whole prompt of an evaluation item as a run of tokens. An item shorter than an
   n-gram must stand alone: the whole text, or one line, sentence or quotation of it ("12 + 45 ="
   is a part of "7 + 12 + 45 =", which is another problem);
2. or has all numbers of an item and shares an item-specific n-gram with it: one that no other item
   of its skill has, and in which at least half of the tokens are uncommon, that is, in at most a
   share of the skill's items. A story with other numbers is another problem, and an n-gram of
   template and one number says nothing about which problem it is.

Frequencies are counted over the distinct evaluation items of a skill, an item with its twins as one: what
it shares with them alone is still its own. Where a skill has one item
nothing tells its own words from a template, and the second rule errs on dropping.
"""

from functools import reduce

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.lifecycle.selection.text import numbers, tokens
from selfimp_dagster.registry import method

_CHUNK = 20_000  # rows whose n-grams are in memory at once
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so no n-gram's hash forgets a token
_MATCHES = pl.Schema(
    {
        "text": pl.UInt32,
        "item": pl.UInt32,
        "rule": pl.String,
        "share": pl.Float64,
        "matched": pl.String,
    }
)


class DecontaminationParameters(BaseModel):
    """Parameters of `decontamination`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ngram: int = Field(default=8, ge=2, description="Tokens (words, numbers, symbols) of one n-gram.")
    template_share: float = Field(
        default=0.1, ge=0, lt=1, description="A token in more than this share of a skill's items is common."
    )


@method(
    "selection",
    "decontamination",
    parameters=DecontaminationParameters,
    section="3.2",
    paper="arXiv:2005.14165",
)
def decontamination(
    rows: pl.DataFrame, context: SelectionContext, parameters: DecontaminationParameters
) -> pl.DataFrame:
    """Drops rows that contain an evaluation item, or a part of one that is its own.

    The score is the share of the item's n-grams that were found: 1 for a whole item, 0 for a clean
    row. The evidence names the item, its skill, the rule, the text that it was found in and the
    matching tokens. N-gram overlap is that of Brown et al. (arXiv:2005.14165, appendix C); the
    allowance for templates is this project's own.
    """
    items = _items(context.evaluation_items)
    wanted = _wanted(_long(items, parameters.ngram), parameters.ngram, parameters.template_share)
    parts = [_judged(part, items, wanted, parameters.ngram) for part in rows.iter_slices(_CHUNK)]
    return pl.concat([JUDGEMENTS.to_frame(), *parts])


def _judged(rows: pl.DataFrame, items: pl.DataFrame, wanted: pl.DataFrame, size: int) -> pl.DataFrame:
    fields, texts = _fields(rows)
    found = (
        _matches(texts, items, wanted, size)
        .join(fields, on="text")
        .join(items.select("item", "item_id", "skill"), on="item")
        .sort("sample_id", "share", "rule", "item_id", "field", descending=[False, True, True, False, False])
        .unique("sample_id", keep="first", maintain_order=True)
        .select(
            "sample_id", "item_id", "skill", "rule", pl.col("field").alias("found_in"), "matched", "share"
        )
    )
    contaminated = pl.col("item_id").is_not_null()
    return (
        rows.select("sample_id")
        .join(found, on="sample_id", how="left", maintain_order="left")
        .select(
            "sample_id",
            pl.col("share").fill_null(0.0).alias("score"),
            (~contaminated).alias("kept"),
            pl.when(contaminated)
            .then(pl.format("its {} has evaluation item {} ({})", "found_in", "item_id", "rule"))
            .otherwise(pl.lit("has no evaluation item"))
            .alias("reason"),
            pl.when(contaminated)
            .then(pl.struct("item_id", "skill", "rule", "found_in", "matched").struct.json_encode())
            .otherwise(pl.lit("{}"))
            .alias("evidence"),
        )
        .cast(JUDGEMENTS)
    )


def _items(evaluation_items: pl.DataFrame) -> pl.DataFrame:
    """The distinct evaluation prompts of each skill: item, item_id, skill, tokens, line, origin.

    `origin` is the id of the item itself, or of the one that it is a twin of.
    """
    origin = pl.coalesce(pl.col("parent_ids").list.first(), "task_id")
    return (
        evaluation_items.select("skill", "task_id", tokens(pl.col("prompt")).alias("tokens"), origin=origin)
        .filter(pl.col("tokens").list.len() > 0)
        .with_columns(pl.col("tokens").list.join(" ").alias("line"))
        .group_by("skill", "line")
        .agg(pl.col("task_id").min().alias("item_id"), pl.col("origin").min(), pl.col("tokens").first())
        .sort("item_id")
        .with_row_index("item")
    )


def _fields(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Which sample has which text in which field, and the distinct texts."""
    message = rows.explode("messages").select("sample_id", pl.col("messages").struct.field("content"))
    contents = {
        "prompt": rows.select("sample_id", pl.col("prompt").alias("content")),
        "response": rows.select("sample_id", pl.col("response").alias("content")),
        "messages": message.drop_nulls("content"),
    }
    named = pl.concat(
        content.with_columns(pl.lit(field, pl.Enum(list(contents))).alias("field"))
        for field, content in contents.items()
    )
    texts = named.select(pl.col("content").unique()).with_row_index("text")
    fields = named.join(texts, on="content").select("sample_id", "field", "text").unique()
    return fields, texts


def _long(items: pl.DataFrame, size: int) -> pl.DataFrame:
    return items.filter(pl.col("tokens").list.len() >= size)


def _matches(texts: pl.DataFrame, items: pl.DataFrame, wanted: pl.DataFrame, size: int) -> pl.DataFrame:
    read = texts.select("text", tokens(pl.col("content")).alias("tokens"))
    hits = _ngrams(read, "text", size).join(wanted, on="hash")
    found = [_whole(hits, read, _long(items, size)), _parts(hits, read, size)]
    short = items.filter(pl.col("tokens").list.len() < size)
    if not short.is_empty():
        found.append(_standing_alone(texts, short))
    return pl.concat([_MATCHES.to_frame(), *found])


def _wanted(items: pl.DataFrame, size: int, template_share: float) -> pl.DataFrame:
    """The n-grams of items worth finding: hash, item, item_start, words, numbers, specific, anchor,
    ngrams_of_item.

    An item's anchor is the n-gram of it that the fewest items have: whatever contains the item
    contains its anchor, and little else does.
    """
    items_with_token = (
        items.select("skill", "origin", pl.col("tokens").list.unique())
        .explode("tokens")
        .group_by("skill", "tokens")
        .agg(pl.col("origin").n_unique().alias("items_with_token"))
    )
    common = pl.max_horizontal(1, template_share * pl.col("items_of_skill"))
    uncommon = (
        items.with_columns(
            pl.col("origin").n_unique().over("skill").alias("items_of_skill"),
            pl.int_ranges(pl.col("tokens").list.len()).alias("start"),
        )
        .explode("tokens", "start")
        .join(items_with_token, on=["skill", "tokens"])
        .sort("item", "start")
        .with_columns((pl.col("items_with_token") <= common).cast(pl.Int64).alias("uncommon"))
        .select("item", "start", pl.col("uncommon").rolling_sum(size).shift(1 - size).over("item"))
    )
    rarest_first = pl.col("items_with").cast(pl.Int64) * 2**32 + pl.col("start")
    return (
        _ngrams(items, "item", size)
        .unique(["item", "hash"], keep="first", maintain_order=True)
        .join(uncommon, on=["item", "start"])
        .join(items.select("item", "skill", "line", "tokens", "origin"), on="item")
        .with_columns(
            pl.col("origin").n_unique().over("skill", "hash").alias("items_of_skill_with"),
            pl.len().over("hash").alias("items_with"),
            pl.len().over("item").alias("ngrams_of_item"),
        )
        .with_columns(
            ((pl.col("items_of_skill_with") == 1) & (2 * pl.col("uncommon") >= size)).alias("specific"),
            (rarest_first == rarest_first.min().over("item")).alias("anchor"),
        )
        .filter(pl.col("specific") | pl.col("anchor"))
        .select(
            "hash",
            "item",
            pl.col("start").alias("item_start"),
            pl.col("tokens").list.slice("start", size).list.join(" ").alias("words"),
            numbers(pl.col("line")).alias("numbers"),
            "specific",
            "anchor",
            "ngrams_of_item",
        )
    )


def _ngrams(texts: pl.DataFrame, key: str, size: int) -> pl.DataFrame:
    """Every run of `size` tokens: key, start, hash. The caller confirms a match: hashes may collide."""
    flat = (
        texts.filter(pl.col("tokens").list.len() >= size)
        .select(key, "tokens", pl.int_ranges(pl.col("tokens").list.len()).alias("start"))
        .explode("tokens", "start")
        .with_columns(pl.col("tokens").hash())
    )
    multiplier = pl.lit(_MULTIPLIER, pl.UInt64)
    rolling = reduce(
        lambda hashed, ahead: hashed * multiplier + pl.col("tokens").shift(-ahead),
        range(1, size),
        pl.col("tokens"),
    )
    return flat.select(key, "start", rolling.alias("hash")).filter(pl.col(key) == pl.col(key).shift(1 - size))


def _whole(hits: pl.DataFrame, read: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Items that a text contains from their first to their last token."""
    return (
        hits.filter("anchor")
        .select("text", "item")
        .unique()
        .join(
            read.select("text", pl.format(" {} ", pl.col("tokens").list.join(" ")).alias("read")), on="text"
        )
        .join(items.select("item", "line"), on="item")
        .filter(pl.col("read").str.contains(pl.format(" {} ", "line"), literal=True))
        .select("text", "item", *_whole_item())
    )


def _parts(hits: pl.DataFrame, read: pl.DataFrame, size: int) -> pl.DataFrame:
    """Items of which a text has an n-gram of their own and all numbers."""
    return (
        hits.filter("specific")
        .join(read, on="text")
        .filter(
            (pl.col("tokens").list.slice("start", size).list.join(" ") == pl.col("words"))
            & (pl.col("numbers").list.set_difference("tokens").list.len() == 0)
        )
        .group_by("text", "item")
        .agg(
            pl.lit("item-specific n-gram").first().alias("rule"),
            (pl.col("item_start").n_unique() / pl.col("ngrams_of_item").first()).alias("share"),
            pl.col("words").sort_by("item_start").first().alias("matched"),
        )
    )


def _standing_alone(texts: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Short items that are a whole text, or a line, a sentence or a quotation of one."""
    pieces = (
        pl.col("content")
        .str.replace_all(r"([.?!:])\s+|[\r\n\"“”`]+", "${1}\n")
        .str.split("\n")
        .alias("piece")
    )
    return (
        pl.concat(
            [
                texts.select("text", pieces).explode("piece"),
                texts.select("text", pl.col("content").alias("piece")),
            ]
        )
        .select("text", tokens(pl.col("piece")).list.join(" ").alias("line"))
        .join(items.select("item", "line"), on="line")
        .select("text", "item", *_whole_item())
        .unique()
    )


def _whole_item() -> list[pl.Expr]:
    return [
        pl.lit("whole item").alias("rule"),
        pl.lit(1.0).alias("share"),
        pl.col("line").alias("matched"),
    ]
