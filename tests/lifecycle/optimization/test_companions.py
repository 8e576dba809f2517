"""Reward model and verifier: their losses, what is held out, what they leave, and how they judge."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from selfimp_dagster.engines.reward_model import RewardModel
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.companions import CompanionRecord
from selfimp_dagster.lifecycle.optimization import reward_trainer
from selfimp_dagster.lifecycle.optimization.companion import is_held_out
from selfimp_dagster.lifecycle.optimization.fit import check_companions
from selfimp_dagster.lifecycle.optimization.pairs import PAIRS
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import Reward
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame
from selfimp_dagster.registry import find_method

GROUPS = dict.fromkeys(range(100, 130), ("7", "0", "5", "77"))
LONG = {"most_steps": 40, "epochs": 40, "batch_size": 8, "pairs_per_task": 1}


def chat(number: int) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": f"learn {number}"},)


def test_the_loss_of_a_reward_model_is_that_of_bradley_and_terry(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[tuple[float, float]] = []

    def measured(trainer: Any, *_: Any) -> Any:
        trainer.model.eval()
        pairs = [trainer.train_dataset[place] for place in range(4)]
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, trainer.data_collator(pairs)).item()
        trainer.model.save_pretrained(tmp_path / "measured")
        trainer.processing_class.save_pretrained(tmp_path / "measured")
        model = RewardModel(tmp_path / "measured")
        sides = [
            model.scores([(tuple(pair["prompt"]), pair[side][-1]["content"]) for pair in pairs])
            for side in ("chosen", "rejected")
        ]
        expected = [
            -math.log(1 / (1 + math.exp(worse - better))) + 0.5 * (better + worse) ** 2
            for better, worse in zip(*sides, strict=True)
        ]
        found.append((loss, sum(expected) / len(expected)))
        raise KeyboardInterrupt

    monkeypatch.setattr(reward_trainer, "run", measured)
    with pytest.raises(KeyboardInterrupt):
        train("reward_model", GROUPS, centering=0.5)
    ((loss, expected),) = found
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["reward_model", "verifier"])
def test_a_companion_learns_to_order_responses_that_it_never_saw(
    train: Callable[..., Any], tiny_model: Path, tmp_path: Path, name: str
) -> None:
    update = train(name, GROUPS, learning_rate=3e-3 if name == "reward_model" else 3e-4, **LONG)
    folder = tmp_path / "companions" / name
    record = CompanionRecord.model_validate_json((folder / "companion.json").read_text())
    tried = [number for number in GROUPS if is_held_out(f"t{number}", 0.2)]
    assert (record.held_out, record.pairs) == (len(tried), len(GROUPS) - len(tried))
    assert 0 < len(tried) < len(GROUPS)
    assert record.right == record.held_out, "every wrong response is put behind the right one"
    assert update.facts["companion"] == record.model_dump()
    assert not {f"t{number}" for number in tried} & set(update.training["task_id"])
    assert update.metrics.filter(metric="pair_accuracy")["value"][-1] == 1
    # The policy is passed on as it is, and the companion is other weights.
    assert policy_hash(tmp_path / "candidate") == policy_hash(tiny_model) != policy_hash(folder)


def test_the_accuracy_on_held_out_pairs_is_counted_with_the_weights_that_were_saved(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    update = train("reward_model", GROUPS, most_steps=1, learning_rate=1e-9, pairs_per_task=1)
    folder = tmp_path / "companions" / "reward_model"
    pairs = pl.read_parquet(folder / "pairs.parquet")
    assert pairs.schema == PAIRS
    tried = pairs.filter(pl.col("task_id").map_elements(lambda t: is_held_out(t, 0.2), pl.Boolean))
    model = RewardModel(folder)
    scored = [
        model.scores([(tuple(m), said) for m, said in tried.select("messages", side).iter_rows()])
        for side in ("chosen", "rejected")
    ]
    right = sum(better > worse for better, worse in zip(*scored, strict=True))
    assert update.facts["companion"]["right"] == right


def test_pairs_of_earlier_rounds_are_learnt_again(train: Callable[..., Any], tmp_path: Path) -> None:
    train("verifier", dict.fromkeys(range(100, 110), ("7", "0")))
    (tmp_path / "companions").rename(tmp_path / "before")
    update = train("verifier", dict.fromkeys(range(105, 120), ("7", "7", "5")), inherited=tmp_path / "before")
    pairs = pl.read_parquet(tmp_path / "companions" / "verifier" / "pairs.parquet")
    assert pairs["task_id"].n_unique() == 20
    assert set(pairs["rejected"]) == {"0", "5"}
    assert update.facts["companion"]["pairs"] + update.facts["companion"]["held_out"] == pairs.height == 25


def test_lora_trains_the_head_of_a_reward_model_too(train: Callable[..., Any], tmp_path: Path) -> None:
    update = train("reward_model", GROUPS, lora_rank=2, learning_rate=1e-2, **LONG)
    assert update.facts["companion"]["right"] == update.facts["companion"]["held_out"]
    assert RewardModel(tmp_path / "companions" / "reward_model").scores([(chat(100), "7")])


def test_without_a_pair_there_is_nothing_to_train(train: Callable[..., Any]) -> None:
    with pytest.raises(SelfimpError, match="reward_model found no task with a better and a worse response"):
        train("reward_model", {100: ("7", "7")})


class Scripted:
    """A companion that scores by the text of a response."""

    def __init__(self, right: int, held_out: int) -> None:
        self.record = CompanionRecord(
            name="x", round="tiny/0000", learnt_from="answer", pairs=9, held_out=held_out, right=right
        )

    def scores(self, responses: Sequence[Any], label: str) -> list[float]:
        assert all(messages == chat(100) for messages, _ in responses)
        return [float(said) for _, said in responses]


def judged(name: str, responses: Sequence[str], companion: Scripted | None) -> list[dict[str, Any]]:
    tasks = frame([{**dict.fromkeys(TASKS), "task_id": "t", "prompt": "learn 100"}], TASKS)
    rows = [
        {**dict.fromkeys(SAMPLES), "sample_id": f"s{n}", "task_id": "t", "response": said}
        for n, said in enumerate(responses)
    ]
    context = RewardContext(
        tasks, frame(rows, SAMPLES), REWARDS.to_frame(), 0, companion=lambda asked: companion
    )
    method = find_method("reward", name)
    return method.function(context, method.parameters()).to_dicts()


def test_rewards_of_companions() -> None:
    rows = judged("reward_model", ["0", "2", "-9999"], Scripted(8, 10))
    assert [row["value"] for row in rows] == pytest.approx([0.5, 1 / (1 + math.exp(-2)), 0])
    assert {row["confidence"] for row in rows} == {0.8}
    assert json.loads(rows[1]["evidence"]) == {
        "score": 2,
        "trained_in": "tiny/0000",
        "tried": "8 of 10 held-out pairs in the right order",
    }
    rows = judged("verifier", ["-1.5", "0"], Scripted(8, 10))
    assert [row["value"] for row in rows] == pytest.approx([math.exp(-1.5), 1])


@pytest.mark.parametrize(
    ("companion", "why"),
    [
        (None, "no reward_model was trained in this line yet"),
        (Scripted(10, 40), "10 of 40 held-out pairs in the right order: below the floor of 0.6"),
    ],
)
def test_a_companion_that_is_not_there_or_below_its_floor_is_silent(
    companion: Scripted | None, why: str
) -> None:
    (row,) = judged("reward_model", ["1"], companion)
    assert (row["value"], row["confidence"]) == (None, 0)
    assert why in row["evidence"]


def test_a_floor_that_may_have_been_reached_silences_nobody() -> None:
    (row,) = judged("reward_model", ["0"], Scripted(1, 3))  # the interval reaches from 0.06 to 0.79
    assert row["value"] == 0.5


def chosen(*names: str) -> list[Reward]:
    return [Reward(method, method.parameters()) for method in (find_method("reward", n) for n in names)]


def test_a_companion_that_nobody_trains_or_that_learns_from_itself_is_refused() -> None:
    sft, trains = find_method("optimization", "sft"), find_method("optimization", "reward_model")
    with pytest.raises(
        SelfimpError, match="reward_model asks a companion that no update of the recipe trains"
    ):
        check_companions(sft, sft.parameters(), chosen("answer", "reward_model"))
    check_companions(trains, trains.parameters(), chosen("answer", "reward_model"))
    with pytest.raises(SelfimpError, match="reward_model would learn from what it says itself"):
        check_companions(trains, trains.parameters(), chosen("reward_model", "answer"))
