"""A campaign that starts from nothing: shown the shortest strings, then labelling longer ones by vote."""

from pathlib import Path

import polars as pl
import yaml
from home import Home

from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, TRAINING
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND = RoundKey("strings", 0), RoundKey("strings", 1)


def _strings(home: Home) -> None:
    home.write_campaign(
        "strings",
        model="scratch:characters",
        skills={
            "learning": None,
            "copying": {"suite": "strings", "operation": "copy", "shortest": 2, "longest": 4},
        },
    )
    path = home.campaigns / "strings.yaml"
    campaign = yaml.safe_load(path.read_text())
    del campaign["skills"]["learning"], campaign["guard"]
    campaign["pools"] = {"train": [600, 200], "anchor": 60, "fresh": 40, "guard": 0}
    campaign["evaluation"] = {"max_new_tokens": 6, "rewordings": 0, "twins": 0}
    campaign["recipe"] |= {
        "acquisition": {
            "method": "self_labelling",
            "demonstrated": 3,
            "votes": 3,
            "sampling": {"max_new_tokens": 6, "temperature": 0.7},
        },
        "rewards": [{"method": "majority_vote"}],
        "selection": [
            {"method": "verified", "reward": "majority_vote", "minimum_confidence": 0.5},
            {"method": "length_filter", "outliers": 0.05},
            *campaign["recipe"]["selection"][1:],
        ],
        "optimization": {
            "method": "sft",
            "learning_rate": 3e-3,
            "batch_size": 64,
            "epochs": 32,
            "most_steps": 300,
            "replay": 1.0,
        },
    }
    path.write_text(yaml.safe_dump(campaign))


def test_it_learns_from_demonstrations_and_then_labels_what_is_longer(
    tmp_path: Path, tiny_model: Path
) -> None:
    home = Home(tmp_path / "installation", tiny_model)
    _strings(home)
    home.run("strings/0000")
    report = read_report(home.store, _FIRST)
    assert report.verdict.promoted
    shown = home.store.open(_FIRST, "generated_corpus")
    assert set(shown.table("samples", SAMPLES)["generation"]) == {"D"}
    assert shown.table("tasks", TASKS)["difficulty"].max() == 3

    home.run("strings/0001")
    corpus = home.store.open(_SECOND, "generated_corpus")
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    own = tasks.join(samples.filter(generation="SE"), on="task_id", how="semi")
    assert set(own["difficulty"]) == {4}
    rewards = corpus.table("rewards", REWARDS)
    assert set(rewards["reward"]) == {"answer", "majority_vote"}
    trained = home.store.open(_SECOND, "checkpoint").table("training", TRAINING)["sample_id"]
    voted = rewards.filter(pl.col("reward") == "majority_vote", pl.col("value") >= 1)["sample_id"]
    mine = samples.filter(generation="SE")["sample_id"]
    assert set(trained) & set(mine) <= set(voted)
