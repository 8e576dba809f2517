"""The processes that train a candidate together, started by the asset `checkpoint` through Dagster Pipes.

    python -m selfimp_dagster.training_process launch '{...}'

starts torchrun, or accelerate where a configuration of it is named, which starts

    python -m selfimp_dagster.training_process train '{...}'

as often as is asked for. The first of these writes the checkpoint and tells Dagster how it is getting on;
what ended it is left in a file for who asked. All of them die with the process that started them.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.workbench import Workbench
    from selfimp_dagster.progress import Bar

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PARENT = "SELFIMP_TRAINING_PARENT"


class Orders(BaseModel):
    """What the processes are told. `accelerate` is a configuration file of it, or empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: str
    overrides: dict[str, Any]
    processes: int
    accelerate: str
    store: str
    bucket: str
    models: str
    campaigns: str
    failure: str


def main() -> None:
    die_with_parent()  # before anything that takes time is imported
    role, told = sys.argv[1:]
    orders = Orders.model_validate_json(told)
    if role == "launch":
        launch(orders)
    else:
        train(orders)


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(_PARENT) != str(os.getppid()):  # it was gone before it could be asked for
        sys.exit("the process that started this one is gone")


def launch(orders: Orders) -> None:
    """Starts the processes with torchrun, or with accelerate by its configuration, and waits for them."""
    os.environ[_PARENT] = str(os.getpid())
    worker = ["-m", "selfimp_dagster.training_process", "train", orders.model_dump_json()]
    if orders.accelerate:
        from accelerate.commands.launch import launch_command, launch_command_parser

        named = ["--config_file", orders.accelerate, "--num_processes", str(orders.processes)]
        launch_command(launch_command_parser().parse_args([*named, *worker]))
    else:
        from torch.distributed.run import main as torchrun

        torchrun(["--standalone", "--nproc-per-node", str(orders.processes), *worker])


def train(orders: Orders) -> None:
    """What each of the processes does."""
    from dagster_pipes import open_dagster_pipes

    from selfimp_dagster.lifecycle.optimization.several import is_first
    from selfimp_dagster.lifecycle.optimization.stage import assist_training, train_checkpoint
    from selfimp_dagster.round_key import RoundKey

    key = RoundKey.parse(orders.round)
    if is_first():
        with open_dagster_pipes() as pipes, failure_kept(Path(orders.failure)):
            train_checkpoint(bench_of(orders, pipes.log.info), key, orders.overrides)
    else:
        assist_training(bench_of(orders, None), key, orders.overrides)


@contextmanager
def failure_kept(place: Path) -> Iterator[None]:
    """Leaves an error that is written for people where the asset finds it."""
    from selfimp_dagster.errors import SelfimpError

    try:
        yield
    except SelfimpError as error:
        place.write_text(json.dumps({"what": error.what, "where": error.where, "fix": error.fix}))
        raise


def bench_of(orders: Orders, log: Callable[[str], None] | None) -> "Workbench":
    """What a stage is handed; people and budget are asked by the process that logs."""
    from selfimp_dagster.engines.pool import EnginePool
    from selfimp_dagster.lifecycle.optimization.stage import ASSET
    from selfimp_dagster.lifecycle.oversight import KillSwitch, OverseenProgress
    from selfimp_dagster.lifecycle.spending import BudgetSwitch
    from selfimp_dagster.lifecycle.workbench import Workbench
    from selfimp_dagster.progress import LogProgress
    from selfimp_dagster.round_key import RoundKey
    from selfimp_dagster.store import ArtifactStore

    store = ArtifactStore(Path(orders.store), orders.bucket or None)
    key, campaigns = RoundKey.parse(orders.round), Path(orders.campaigns)
    progress = (
        OverseenProgress(
            LogProgress(log), KillSwitch(store, key.campaign), BudgetSwitch(store, campaigns, key, ASSET)
        )
        if log
        else _Quiet()
    )
    return Workbench(store, EnginePool(), Path(orders.models), campaigns, progress)


class _Quiet:
    """Progress of a process that nobody watches."""

    def stage(self, label: str, total: float, unit: str) -> "nullcontext[Bar]":
        return nullcontext(self)

    def advance(self, amount: float = 1, *, tokens: int = 0) -> None:
        pass


if __name__ == "__main__":
    main()
