"""Twins of anchor items, and items that nobody could judge."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selfimp_dagster.campaign import Campaign, parse_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.items import (
    evaluation_items,
    items_until,
    judgeable,
    unusable_rows,
)
from selfimp_dagster.lifecycle.evaluation.twins import twin_items
from selfimp_dagster.records import TASKS
from selfimp_dagster.tasks.pools import draw_pool, pool_seed, prompt_key, side_of

NAMES = ("Adam", "Boris", "Carl", "Diego", "Emil", "Fred")
SUMS = {"suite": "reasoning_gym", "family": "chain_sum", "parameters": {"max_digits": 2}}


def words(folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A file skill about persons with worked solutions."""
    rows = rows or [
        {
            "question": f"{name} has {number} figs and gets 20 more. How many figs has {name}?",
            "answer": f"{number}+20 = <<{number}+20={number + 20}>>{number + 20}\n#### {number + 20}",
        }
        for name in NAMES
        for number in range(31, 90)
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt_column": "question", "answer_column": "answer", "solution_column": "answer"}
    return {"suite": "file", "path": "words.jsonl", **columns, "answer_pattern": "#### (.+)$", **changes}


def campaign(skills: dict[str, Any], **changes: Any) -> Campaign:
    recipe = {
        "acquisition": {"method": "policy_sampling"},
        "selection": [
            {"method": name}
            for name in ("verified", "exact_duplicates", "near_duplicates", "decontamination")
        ],
        "optimization": {"method": "sft"},
        "refinement": {"method": "self_consistency"},
    }
    plain = {
        "name": "fruit",
        "skills": skills,
        "pools": {"train": 8, "anchor": 40, "fresh": 20, "guard": 0},
        "recipe": recipe,
        "evaluation": {"twins": 16},
        "promotion": {"minimum_gain": 0.4, "discordance": 0.4},
        "continuation": {"rounds": 3, "patience": 1},
    }
    return parse_campaign({**plain, **changes}, where="test")


def test_twins_are_others_every_round_and_never_in_another_pool(tmp_path: Path) -> None:
    fruit = campaign({"words": words(tmp_path), "sums": SUMS})
    prompts: set[str] = set()
    for number in range(3):
        items = evaluation_items(fruit, number, tmp_path)
        twins = twin_items(fruit, number, items)
        assert twins.equals(twin_items(fruit, number, items))
        assert (dict(twins.schema), twins.height) == (dict(TASKS), 16)
        assert set(twins["source"]) == {"numbers", "reseeded"}
        assert set(twins["parent_ids"].list.first()) <= set(
            items.filter(pl.col("pool") == "anchor")["task_id"]
        )
        keys = set(map(prompt_key, twins["prompt"]))
        assert len(keys) == 16
        assert not keys & set(map(prompt_key, items["prompt"]))
        assert not keys & prompts, "asked before"
        assert {side_of(prompt, 0.4) for prompt in twins["prompt"]} == {"anchor"}
        train = draw_pool("train", fruit.skills, 200, pool_seed("train", 0, number), 0.4, tmp_path)
        assert not keys & {prompt_key(task.prompt) for task in train.tasks}
        prompts |= keys
    until = items_until(fruit, 2, tmp_path)
    assert prompts <= set(map(prompt_key, until["prompt"]))
    assert until.filter(pl.col("pool") == "twin").height == 48
    assert until["task_id"].is_unique().all()


def test_without_a_solution_persons_are_renamed(tmp_path: Path) -> None:
    fruit = campaign({"words": words(tmp_path, solution_column=None)})
    twins = twin_items(fruit, 0, evaluation_items(fruit, 0, tmp_path))
    assert set(twins["source"]) == {"renamed"}
    assert twins.height == 16


def test_items_that_cannot_be_transformed_have_no_twin(tmp_path: Path) -> None:
    rows = [{"question": f"learn {number}", "answer": "#### 7"} for number in range(200)]
    fruit = campaign({"words": words(tmp_path, rows)})
    assert twin_items(fruit, 0, evaluation_items(fruit, 0, tmp_path)).is_empty()
    none = campaign({"words": words(tmp_path)}, evaluation={"twins": 0})
    assert twin_items(none, 0, evaluation_items(none, 0, tmp_path)).is_empty()


def test_items_whose_answer_the_verifier_cannot_read_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"question": f"Which is it, {number}?", "answer": f"#### {'$$' if number % 4 == 0 else number}"}
        for number in range(300)
    ]
    rows += [{"question": "Why?", "answer": "because"}, {"answer": "#### 3"}]
    fruit = campaign({"words": words(tmp_path, rows)})
    items = evaluation_items(fruit, 0, tmp_path)
    kept, left_out = judgeable(items)
    assert set(kept["answer"]) == set(items["answer"]) - {"$$"}
    assert left_out.rows() == [
        (
            "words",
            "items",
            items.height - kept.height,
            "the verifier fails on the expected answer",
        )
    ]
    assert unusable_rows(fruit, tmp_path).rows() == [
        ("words", "rows of words.jsonl", 1, "answer_pattern does not match"),
        ("words", "rows of words.jsonl", 1, "no prompt"),
    ]
    with pytest.raises(SelfimpError, match="none of the 10 evaluation items can be judged"):
        judgeable(items.filter(pl.col("answer") == "$$").head(10))


def test_items_whose_own_answer_is_refused_are_left_out(tmp_path: Path) -> None:
    fruit = campaign({"sums": SUMS})
    items = evaluation_items(fruit, 0, tmp_path)
    wrong = pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("no number")).otherwise("answer")
    kept, left_out = judgeable(items.with_columns(answer=wrong))
    assert kept.height == items.height - 5
    assert left_out.rows() == [("sums", "items", 5, "the verifier refuses the expected answer")]


def test_items_that_only_a_program_judges_stay(tmp_path: Path) -> None:
    fruit = campaign({"words": words(tmp_path)})
    items = evaluation_items(fruit, 0, tmp_path).with_columns(answer=pl.lit(None, pl.String))
    kept, left_out = judgeable(items)
    assert kept.equals(items)
    assert left_out.is_empty()
