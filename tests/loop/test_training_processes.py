"""A candidate that two processes train together is the one that a single process trains."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from home import Home
from safetensors.torch import load_file

from selfimp_dagster.campaign import MethodChoice
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.several import TOGETHER, check_together
from selfimp_dagster.records import TRAINING_CURVE
from selfimp_dagster.registry import all_methods
from selfimp_dagster.round_key import RoundKey

KEY = "tiny/0000"
BEFORE = ("incumbent_policy", "generated_corpus", "selected_subset")
PATIENCE = 120.0  # seconds
SHIPPED = Path(__file__).parents[2] / "deploy" / "accelerate"


def weights(folder: Path) -> torch.Tensor:
    found = load_file(folder / "model.safetensors")
    return torch.cat([found[name].flatten() for name in sorted(found)])


def trainers() -> list[psutil.Process]:
    """The processes on this machine that train together, launchers left out."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
        if "selfimp_dagster.training_process" in line and "train" in line and "launch" not in line:
            found.append(process)
    return found


def soon(true: Callable[[], object]) -> bool:
    """Whether it becomes true."""
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def killing_one(home: Home) -> Iterator[Event]:
    """Kills the second of two processes as soon as both are there."""
    done, ended = Event(), Event()

    def watch() -> None:
        while not ended.is_set():
            both = trainers()
            if len(both) == 2:
                max(both, key=lambda process: process.pid).send_signal(signal.SIGKILL)
                done.set()
                return
            time.sleep(0.05)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield done
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("update", ["sft", "dpo"])
def test_two_processes_train_what_one_trains_also_after_one_of_them_was_killed(
    update: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = Home(tmp_path / "one", tiny_model)
    one.write_campaign(
        recipe={"optimization": {"method": update, "batch_size": 8, "epochs": 1, "most_steps": 4}}
    )
    with one.instance() as instance:
        assert one.materialize(instance, KEY, *BEFORE).success
    two = replace(one.copy_to(tmp_path / "two"), processes=2)
    with one.instance() as instance:
        assert one.materialize(instance, KEY, "checkpoint").success
    with two.instance() as instance:
        if update == "sft":
            with killing_one(two) as killed:
                ended = two.materialize(instance, KEY, "checkpoint")
            assert killed.is_set()
            assert not ended.success
            (failed,) = (event for event in ended.all_node_events if event.is_step_failure)
            assert "one of 2 processes that train together ended" in str(failed.step_failure_data.error)
            assert soon(lambda: not trainers())
        result = two.materialize(instance, KEY, "checkpoint")
        assert result.success
        logged = [event.message or "" for event in instance.all_logs(result.run_id)]
    assert any("training: 4/4 steps" in line for line in logged)
    alone, together = (home.store.open(RoundKey.parse(KEY), "checkpoint") for home in (one, two))
    assert together.facts["processes"] == 2
    base, expected, actual = (
        weights(folder) for folder in (tiny_model, alone.folder / "model", together.folder / "model")
    )
    assert (actual - expected).norm() < 0.05 * (expected - base).norm()
    assert together.measurements["tokens"] == alone.measurements["tokens"]
    losses = [artifact.table("training_curve", TRAINING_CURVE)["loss"] for artifact in (alone, together)]
    assert losses[1].to_list() == pytest.approx(losses[0].to_list(), rel=0.05)


@pytest.mark.parametrize(("name", "kind"), [("fsdp", "FSDP"), ("deepspeed", "DEEPSPEED")])
def test_the_shipped_configurations_are_those_of_accelerate(name: str, kind: str) -> None:
    told = load_config_from_file(str(SHIPPED / f"{name}.yaml"))
    assert told.distributed_type == kind
    asked = launch_command_parser().parse_args(["--config_file", str(SHIPPED / f"{name}.yaml"), "-m", "x"])
    parsed, *_ = _validate_launch_command(asked)
    assert (parsed.use_fsdp, parsed.use_deepspeed) == (kind == "FSDP", kind == "DEEPSPEED")


def test_they_die_with_the_step_that_started_them(tmp_path: Path, tiny_model: Path) -> None:
    home = Home(tmp_path / "installation", tiny_model)
    home.write_campaign()
    told = {"SELFIMP_TRAINING_PROCESSES": "2", "OMP_NUM_THREADS": "1", **home.environment}
    step = subprocess.Popen(
        [sys.executable, "-m", "selfimp_dagster.cli", "run", "tiny", "--rounds", "1"],
        env={**os.environ, **told},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert soon(lambda: len(trainers()) == 2 or step.poll() is not None)
        assert step.poll() is None
    finally:
        step.kill()
        step.wait()
    assert soon(lambda: not trainers())


@pytest.mark.parametrize(
    ("optimization", "why"),
    [
        ({"method": "rloo"}, "rloo trains on one process, and 2 are asked for"),
        (
            {"method": "dpo", "losses": {"sigmoid": 1.0, "sft": 0.1}},
            "the loss sft of dpo is a mean over all tokens of a batch",
        ),
        ({"method": "sft", "batch_size": 7}, "a batch of 7 rows cannot be shared out evenly among 2"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_before_the_round_begins(
    optimization: dict[str, object], why: str, tmp_path: Path, tiny_model: Path
) -> None:
    home = Home(tmp_path / "installation", tiny_model, processes=2)
    home.write_campaign(recipe={"optimization": optimization})
    with home.instance() as instance:
        result = home.materialize(instance, KEY, "incumbent_policy")
    (failed,) = (event for event in result.all_node_events if event.is_step_failure)
    assert why in str(failed.step_failure_data.error)


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ({}, False),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, True),
        ({"ACCELERATE_USE_FSDP": "true"}, True),
    ],
)
def test_adapters_are_not_trained_on_weights_that_are_shared_out(
    told: dict[str, str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    method, parameters = MethodChoice.model_validate({"method": "sft", "lora_rank": 4}).resolve(
        "optimization"
    )
    with pytest.raises(SelfimpError, match="LoRA adapters") if refused else nullcontext():
        check_together(method, parameters, 2)


def test_every_update_is_either_trained_together_or_refused() -> None:
    for method in all_methods():
        if method.stage != "optimization":
            continue
        several = method.name == "sequence"
        told = {"updates": [{"method": "sft"}, {"method": "dpo"}]} if several else {"batch_size": 8}
        parameters = method.parameters.model_validate(told)
        refused = method.name not in TOGETHER
        with pytest.raises(SelfimpError, match="trains on one process") if refused else nullcontext():
            check_together(method, parameters, 2)
