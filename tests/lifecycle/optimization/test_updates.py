"""One update of each kind on the tiny model: a candidate that the engine loads, and what is said of it."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from judged_corpus import Steps, make_context

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization import resuming
from selfimp_dagster.lifecycle.optimization.update import Update
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.records import REWARDS, SAMPLES, TRAINING, TRAINING_CURVE, TRAINING_METRICS
from selfimp_dagster.registry import find_method

Train = Callable[..., Update]

ONLINE = {"group": 4, "sampling": {"max_new_tokens": 4}}
ASKED = ({"role": "user", "content": "learn 123"},)


def right(folder: Path) -> float:
    """The log-probability of the right answer to a task."""
    return sum(TransformersEngine(folder, dtype="float32").logprobs([(ASKED, "7")])[0])


@pytest.mark.parametrize(
    ("name", "parameters", "roles", "metrics"),
    [
        ("sft", {"weight": "confidence"}, {"imitated"}, set()),
        ("dpo", {"lora_rank": 2}, {"chosen", "rejected"}, {"reward_margin", "pair_accuracy", "entropy"}),
        ("kto", {"upper_layers": 1}, {"desirable", "undesirable"}, {"divergence", "entropy"}),
        ("sppo", {}, {"scored"}, {"mean_reward", "entropy"}),
        ("spin", {}, {"chosen", "rejected"}, {"reward_margin", "pair_accuracy"}),
        ("scpo", {}, {"chosen", "rejected"}, {"reward_margin", "pair_accuracy"}),
        ("grpo", {}, {"scored"}, {"mean_reward", "clipped", "entropy"}),
        ("grpo", {"online": ONLINE, "divergence": 0.1}, {"scored"}, {"mean_reward", "divergence"}),
        ("rloo", {}, {"scored"}, {"mean_reward", "clipped"}),
        ("rloo", {"online": ONLINE}, {"scored"}, {"mean_reward", "mean_tokens"}),
        ("restrain", {"lora_rank": 2}, {"scored"}, {"clipped"}),
    ],
)
def test_an_update_saves_a_candidate_that_the_engine_loads(
    train: Train,
    tiny_model: Path,
    tmp_path: Path,
    name: str,
    parameters: dict[str, Any],
    roles: set[str],
    metrics: set[str],
) -> None:
    progress = Steps()
    update = train(name, progress=progress, **parameters)
    assert update.facts["method"] == name
    assert update.facts["steps"] == update.curve.height == len(progress.done) == 2
    assert update.training.schema == TRAINING
    assert update.curve.schema == TRAINING_CURVE
    assert update.metrics.schema == TRAINING_METRICS
    assert set(update.training["role"]) == roles
    assert set(update.training["update"]) == {name}
    assert update.curve["update"].to_list() == [name, name]
    assert metrics <= set(update.metrics["metric"])
    assert update.metrics["value"].is_finite().all()
    assert update.tokens > 0
    candidate = tmp_path / "candidate"
    assert policy_hash(candidate) != policy_hash(tiny_model)
    said = next(TransformersEngine(candidate).generate([Request("r", ASKED, 0)], Sampling(max_new_tokens=4)))
    assert said[0].response


@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "sppo", "spin", "scpo", "grpo", "rloo", "restrain"])
def test_an_update_makes_the_right_answer_likelier(
    train: Train, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    groups = dict.fromkeys(range(100, 108), ("7", "7", "7", "0"))
    train(name, groups, most_steps=8, epochs=9, learning_rate=5e-4, batch_size=8, warmup=0.0)
    assert right(tmp_path / "candidate") > right(tiny_model) + 0.05


def test_the_same_update_comes_out_the_same_after_it_was_killed(train: Train, tmp_path: Path) -> None:
    train("grpo")
    expected = policy_hash(tmp_path / "candidate")
    with pytest.raises(KeyboardInterrupt):
        train("grpo", progress=Steps(stop_at=1))
    train("grpo")
    assert policy_hash(tmp_path / "candidate") == expected


@pytest.mark.parametrize(  # killed in the first passage over the rows, or in a later one
    ("name", "stop_at"), [("sft", 2), ("sft", 6), ("dpo", 5), ("kto", 5), ("grpo", 5)]
)
def test_an_update_goes_on_at_the_step_that_was_saved_last(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop_at: int
) -> None:
    schedule = {"most_steps": 7, "epochs": 50, "batch_size": {"sft": 2, "dpo": 4}.get(name, 16)}
    whole = train(name, **schedule)
    expected = policy_hash(tmp_path / "candidate")
    monkeypatch.setattr(resuming, "SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(name, progress=Steps(stop_at=stop_at), **schedule)
    left = [path.name for path in (tmp_path / ".trainer").glob("checkpoint-*")]
    assert left == [f"checkpoint-{stop_at - 1}"]
    steps = Steps()
    resumed = train(name, progress=steps, **schedule)
    assert steps.done == [stop_at - 1, *[1] * (7 - (stop_at - 1))]
    assert policy_hash(tmp_path / "candidate") == expected
    assert resumed.curve.equals(whole.curve)
    assert resumed.tokens == whole.tokens
    assert not (tmp_path / ".trainer").exists()


def test_killed_at_the_end_of_an_epoch_and_again_in_the_next_it_trains_on_the_same_rows(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = {"most_steps": 9, "epochs": 50, "batch_size": 2}  # four steps in an epoch
    whole = train("sft", **schedule)
    expected = policy_hash(tmp_path / "candidate")
    first = whole.curve["epoch"].to_list().index(1.0) + 1
    assert first > 1, "an epoch of one step has no order"
    monkeypatch.setattr(resuming, "SAVE_EVERY", 0.0)
    for killed_at in (first + 1, 3):  # the second counts what was done before as one advance
        with pytest.raises(KeyboardInterrupt):
            train("sft", progress=Steps(stop_at=killed_at), **schedule)
    assert [path.name for path in (tmp_path / ".trainer").glob("checkpoint-*")] == [f"checkpoint-{first + 1}"]
    train("sft", **schedule)
    assert policy_hash(tmp_path / "candidate") == expected


def test_a_save_that_was_killed_is_not_gone_on_from(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("sft", most_steps=4)
    expected = policy_hash(tmp_path / "candidate")
    monkeypatch.setattr(resuming, "SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train("sft", most_steps=4, progress=Steps(stop_at=3))
    next((tmp_path / ".trainer").glob("*/whole.safetensors")).unlink()
    steps = Steps()
    train("sft", most_steps=4, progress=steps)
    assert steps.done == [1, 1, 1, 1]
    assert policy_hash(tmp_path / "candidate") == expected


def test_a_disk_that_fills_while_a_training_is_saved_is_told_and_the_save_before_it_stays(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("sft", most_steps=4)
    expected = policy_hash(tmp_path / "candidate")
    monkeypatch.setattr(resuming, "SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train("sft", most_steps=4, progress=Steps(stop_at=2))
    (saved,) = (tmp_path / ".trainer").glob("checkpoint-*")
    largest = max(file.stat().st_size for file in saved.iterdir())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2 + 4096, unlimited[1]))
    try:
        with pytest.raises(OSError, match="could not be written"):
            train("sft", most_steps=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (saved / "whole.safetensors").exists()
    steps = Steps()
    train("sft", most_steps=4, progress=steps)
    assert steps.done == [1, 1, 1, 1]
    assert policy_hash(tmp_path / "candidate") == expected


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt"])  # torch words the two differently
def test_a_disk_that_is_full_at_any_file_of_a_save_is_told(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(resuming, "SAVE_EVERY", 0.0)
    save = tmp_path / ".trainer" / "checkpoint-1"
    save.mkdir(parents=True)
    (save / file).symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not be written"):
        train("sft", most_steps=2)
    assert not (save / "whole.safetensors").exists()


def test_a_sequence_that_was_killed_begins_again(train: Train, tmp_path: Path) -> None:
    updates = [{"method": name, "most_steps": 2, "batch_size": 4} for name in ("sft", "dpo")]
    train("sequence", updates=updates)
    expected = policy_hash(tmp_path / "candidate")
    with pytest.raises(KeyboardInterrupt):
        train("sequence", updates=updates, progress=Steps(stop_at=3))
    assert (tmp_path / ".updates/0").is_dir(), "it was killed in its second update"
    train("sequence", updates=updates)
    assert policy_hash(tmp_path / "candidate") == expected
    assert not (tmp_path / ".updates").exists()


def test_each_update_of_a_sequence_begins_where_the_one_before_it_ended(train: Train, tmp_path: Path) -> None:
    sft = {"method": "sft", "most_steps": 2, "learning_rate": 1e-3, "batch_size": 4}
    still = {"method": "dpo", "most_steps": 1, "learning_rate": 1e-12, "batch_size": 4}
    online = {"method": "grpo", "most_steps": 1, "learning_rate": 1e-12, "batch_size": 4, "online": ONLINE}
    update = train("sequence", updates=[sft, still, online])
    both = right(tmp_path / "candidate")
    alone = train("sft")
    assert right(tmp_path / "candidate") == pytest.approx(both, abs=1e-4)
    assert update.curve.select("step", "update").rows() == [(1, "sft"), (2, "sft"), (3, "dpo"), (4, "grpo")]
    assert update.curve["loss"][:2].to_list() == alone.curve["loss"].to_list()
    assert [facts["method"] for facts in update.facts["updates"]] == ["sft", "dpo", "grpo"]
    assert update.facts["trained_from"] == "incumbent"
    assert update.facts["steps"] == 4
    assert set(update.training["update"]) == {"sft", "dpo", "grpo"}
    assert set(update.metrics["step"]) == {3, 4}
    assert update.rollouts.samples.height == 4


def test_groups_drawn_online_are_judged_by_the_recipe_and_recorded(train: Train) -> None:
    judged: list[pl.DataFrame] = []

    def judge(samples: pl.DataFrame) -> pl.DataFrame:
        judged.append(samples)
        told = {"reward": "answer", "kind": "H", "confidence": 1.0, "evidence": ""}
        values = [float(place) for place in range(samples.height)]
        silent = samples.select("sample_id").with_columns(**{k: pl.lit(v) for k, v in told.items()})
        return silent.with_columns(pl.Series("value", values)).select(list(REWARDS)).head(samples.height - 1)

    update = train("grpo", judge=judge, variant="dr_grpo", online=ONLINE)
    rollouts = update.rollouts
    assert rollouts.samples.schema == SAMPLES
    assert rollouts.samples.equals(pl.concat(judged))
    assert rollouts.samples["sample_id"].n_unique() == 8 == update.facts["rollouts"]
    assert rollouts.samples["task_id"].n_unique() == 2
    assert rollouts.rewards["value"].to_list() == [0.0, 1.0, 2.0] * 2
    assert update.facts["rollout_tokens"] == rollouts.samples["completion_tokens"].sum()
    assert update.tokens > update.facts["rollout_tokens"]
    # Rewards 0, 1 and 2, and one that nobody judged: it has no advantage.
    assert update.training["weight"].to_list() == pytest.approx([-1.0, 0.0, 1.0, 0.0] * 2)
    assert update.training["sample_id"].to_list() == rollouts.samples["sample_id"].to_list()
    rewards = update.metrics.filter(metric="mean_reward")["value"].to_list()
    assert rewards == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "groups", "said"),
    [
        ("dpo", {100: ("7", "7"), 101: ("0", "0")}, "dpo found no task with a better and a worse response"),
        ("kto", {100: ("7", "7")}, "kto found no undesirable response"),
        ("kto", {100: ("0", "5")}, "kto found no desirable response"),
        ("spin", {100: ("7", "7")}, "spin found no task with a better and a worse response"),
        ("scpo", {100: ("7", "0")}, "scpo found no task with a better and a worse response"),
        ("grpo", {100: ("7", "7"), 101: ("0", "5")}, "grpo found no selected task whose responses differ"),
        ("rloo", {100: ("7",)}, "rloo found no selected task whose responses differ"),
        ("sppo", {100: ("7", "7")}, "sppo found no selected task whose responses differ"),
        ("restrain", {100: ("7", "7")}, "restrain found no selected task whose responses differ"),
    ],
)
def test_an_update_without_anything_to_learn_from_says_so(
    train: Train, name: str, groups: dict[int, tuple[str, ...]], said: str
) -> None:
    with pytest.raises(SelfimpError, match=f"{said}.* in this round"):
        train(name, groups)


def test_a_reward_that_said_nothing_is_named(train: Train) -> None:
    with pytest.raises(SelfimpError, match="the reward answer gave none of 32 samples a value"):
        train("dpo", values={})
    with pytest.raises(SelfimpError, match="the reward answer gave none"):
        train("grpo", values={"s100-0": float("nan")})


def test_samples_of_several_temperatures_are_no_group() -> None:
    method, context = find_method("optimization", "grpo"), make_context({100: ("7", "0"), 101: ("7", "0")})
    halves = pl.when(pl.col("task_id") == "t100").then(0.5).otherwise(1.0)
    for temperature, said in ((pl.lit(0.0), "0"), (halves, "0.5, 1")):
        drawn = replace(context, pool=context.pool.with_columns(temperature=temperature))
        with pytest.raises(SelfimpError, match=f"drawn at temperature {said}, and grpo compares"):
            method.function(drawn, method.parameters())


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_a_loss_that_is_not_finite_ends_the_update(train: Train, tmp_path: Path, name: str) -> None:
    with pytest.raises(SelfimpError, match="the training loss is not finite"):
        train(name, learning_rate=1e30, most_steps=4, epochs=4, warmup=0.0, schedule="constant")
    assert not (tmp_path / "candidate").exists()


def test_more_layers_than_there_are_is_refused(train: Train) -> None:
    with pytest.raises(SelfimpError, match="upper_layers is 3, the model has 2 layers"):
        train("rloo", upper_layers=3)


def test_an_ordering_is_its_own_chance_to_be_preferred(train: Train) -> None:
    values = {"s100-0": 0.9, "s100-1": 0.2, "s100-2": 0.7}
    groups = {100: ("7", "0", "5")}
    ordered = train("sppo", groups, values=values, gives=frozenset({"ordering"}), batch_size=3)
    assert ordered.training["weight"].to_list() == pytest.approx([0.4, -0.3, 0.2])
    scored = train("sppo", groups, values=values, gives=frozenset({"score"}), batch_size=3)
    assert scored.training["weight"].to_list() == pytest.approx([1 / 3, -1 / 3, 0.0])
