"""On how many processes and devices a candidate is trained."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError
from pydantic import Field

from selfimp_dagster.errors import SelfimpError


class TrainingResource(dg.ConfigurableResource):
    """Processes that train a candidate together, each on a device of its own where there are GPUs."""

    processes: int = Field(default=1, ge=1, description="How many train together; 1: in the step itself.")
    devices: str = Field(
        default="",
        description="GPUs that they see, as CUDA_VISIBLE_DEVICES; empty: those of the step.",
    )
    accelerate: str = Field(
        default="", description="Configuration file of accelerate (FSDP, DeepSpeed); empty: DDP by torchrun."
    )

    def together(self, context: dg.AssetExecutionContext, orders: Mapping[str, Any]) -> None:
        """Runs the processes to their end; what they log is in the step's log.

        Raises:
            SelfimpError: the training failed, or a process died.
        """
        with TemporaryDirectory(prefix="selfimp-training-") as folder:
            failure = Path(folder) / "failure.json"
            told = {
                **orders,
                "processes": self.processes,
                "accelerate": self.accelerate,
                "failure": str(failure),
            }
            command = [sys.executable, "-m", "selfimp_dagster.training_process", "launch", json.dumps(told)]
            environment = {"SELFIMP_TRAINING_PARENT": str(os.getpid())}
            if self.devices:
                environment["CUDA_VISIBLE_DEVICES"] = self.devices
            try:
                dg.PipesSubprocessClient(env=environment).run(context=context, command=command)
            except DagsterPipesExecutionError as error:
                if failure.exists():
                    raise SelfimpError(**json.loads(failure.read_text())) from error
                raise SelfimpError(
                    f"one of {self.processes} processes that train together ended before its time",
                    where=f"{context.partition_key} checkpoint",
                    fix="see the step's standard error for what ended it (killed for memory, a GPU that is "
                    "gone, ...), then materialize checkpoint again: it begins anew, nothing else was lost",
                ) from error
