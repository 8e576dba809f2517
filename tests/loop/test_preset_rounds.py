"""Presets on the tiny model, from what the policy is asked to a candidate: what each trains on."""

from typing import Any

import polars as pl
import pytest
import yaml
from home import Home

from selfimp_dagster.lifecycle.acquisition.stage import generate_corpus
from selfimp_dagster.lifecycle.optimization.stage import train_checkpoint
from selfimp_dagster.lifecycle.policy import start_round
from selfimp_dagster.lifecycle.selection.stage import SUBSET, select_subset
from selfimp_dagster.presets import find_preset
from selfimp_dagster.records import SAMPLES, TRAINING, TRAINING_CURVE
from selfimp_dagster.round_key import RoundKey

_KEY = RoundKey("tiny", 0)


def trained_rows(home: Home, preset: str) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    """A first round until its candidate: what the checkpoint says, the samples it learnt from, all samples.

    Beside the columns of SAMPLES the rows have `role`, and `trained_in` where they were selected.
    """
    selection = [
        {"method": "near_duplicates", "threshold": 1.0} if step["method"] == "near_duplicates" else step
        for step in find_preset(preset).recipe["selection"]
    ]
    path = home.campaigns / "tiny.yaml"
    campaign = yaml.safe_load(path.read_text())
    campaign["pools"]["train"] = 16
    campaign["recipe"] = {
        "preset": preset,
        "acquisition": {"sampling": {"max_new_tokens": 4}},
        "selection": selection,
        "minimum_rows": 2,
    }
    path.write_text(yaml.safe_dump(campaign))
    start_round(home.bench, _KEY)
    samples = generate_corpus(home.bench, _KEY, {}).table("samples", SAMPLES)
    subset = select_subset(home.bench, _KEY).table("subset", SUBSET)
    checkpoint = train_checkpoint(home.bench, _KEY, {})
    assert checkpoint.table("training_curve", TRAINING_CURVE)["loss"].is_finite().all()
    assert checkpoint.facts["policy_hash"] != checkpoint.facts["parent_policy_hash"]
    training = checkpoint.table("training", TRAINING).select("sample_id", "role", "update")
    chats = subset.select("sample_id", pl.col("messages").alias("trained_in"))
    rows = training.join(samples, on="sample_id").join(chats, on="sample_id", how="left")
    return checkpoint.facts, rows, samples


def turns(rows: pl.DataFrame) -> set[int]:
    return set(rows["trained_in"].list.len())


def test_stasc_trains_corrections_as_replies_to_what_they_correct(home: Home) -> None:
    _, rows, samples = trained_rows(home, "stasc")
    assert set(rows["generation"]) == {"R"}
    assert turns(rows) == {3}
    before = rows.join(samples, left_on="parent_sample_id", right_on="sample_id", suffix="_before")
    shown = before["trained_in"].list.get(1).struct.field("content")
    assert shown.to_list() == before["response_before"].to_list()
    assert set(rows["response"]) == {"7"}


def test_synpo_prefers_what_was_refined_as_an_answer_to_the_plain_task(home: Home) -> None:
    _, rows, _ = trained_rows(home, "synpo")
    assert set(rows.filter(role="chosen")["generation"]) == {"R"}
    assert set(rows.filter(role="rejected")["generation"]) == {"SE"}
    assert turns(rows.filter(pl.col("trained_in").is_not_null())) == {1}


def test_a_reflection_learns_from_its_retry_and_nothing_else_is_trained(home: Home) -> None:
    _, rows, samples = trained_rows(home, "reflect_retry_reward")
    assert set(rows["role"]) == {"scored"}
    firsts = samples.filter(pl.col("parent_sample_id").is_null())
    assert rows.join(firsts, left_on="parent_sample_id", right_on="sample_id", how="anti").is_empty()
    assert set(rows["messages"].list.len()) == {3}


def test_dte_imitates_the_consensus_and_then_learns_from_the_first_answers(home: Home) -> None:
    facts, rows, _ = trained_rows(home, "dte")
    assert [update["method"] for update in facts["updates"]] == ["sft", "grpo"]
    assert set(rows.filter(update="grpo")["generation"]) == {"SE"}
    assert "I" in set(rows.filter(update="sft")["generation"])
    assert turns(rows.filter(update="sft")) == {1}


def test_agents_that_debate_are_trained_on_first_answers_and_in_the_debate(home: Home) -> None:
    _, rows, _ = trained_rows(home, "multiagent_ft")
    assert turns(rows.filter(generation="SE")) == {1}
    assert turns(rows.filter(generation="I")) == {3}


def test_sirius_trains_every_role_in_its_own_chat_without_the_answer(home: Home) -> None:
    _, rows, _ = trained_rows(home, "sirius")
    assert turns(rows) == {1}
    told = rows["trained_in"].list.get(0).struct.field("content")
    assert told.str.contains("You are an analyst").any()
    assert told.str.contains("What another agent worked out").any()
    assert not told.str.contains("the right one is").any()


@pytest.mark.parametrize("preset", ["star", "iwsi", "rise"])
def test_the_policy_is_trained_on_what_was_selected(home: Home, preset: str) -> None:
    _, rows, _ = trained_rows(home, preset)
    assert rows["trained_in"].is_not_null().all()
