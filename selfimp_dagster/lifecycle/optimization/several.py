"""Training on several processes: which updates can, and what each process sees. This costs no torch.

Every process runs the same update on the same rows, in its share of each batch; torch averages the gradients,
so an update moves the weights as one process would. The first process writes, the others only compute.
"""

import os

from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.dpo import Dpo
from selfimp_dagster.lifecycle.optimization.update import Schedule
from selfimp_dagster.registry import Method

TOGETHER = ("sft", "dpo", "scpo", "spin")
"""The updates that several processes can train together: those whose loss is a mean over rows or pairs that
does not look at the others of the batch. What compares groups or draws while it trains is not among them."""


def processes() -> int:
    """How many processes train together here: as torchrun and accelerate tell each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def weights_are_shared_out() -> bool:
    """Whether no process has all weights: as accelerate tells each of them, for FSDP and for ZeRO 3."""
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return fsdp or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"


def check_together(method: Method, parameters: BaseModel, count: int) -> None:
    """Refuses an update that so many processes cannot train together.

    Raises:
        SelfimpError: it is none of TOGETHER, its loss is a mean over all tokens of a batch, its batches
            cannot be shared out evenly, or it trains adapters on weights that are.
    """
    if count == 1:
        return
    where = "training.processes"
    if method.name not in TOGETHER:
        raise SelfimpError(
            f"{method.name} trains on one process, and {count} are asked for",
            where=where,
            fix=f"set SELFIMP_TRAINING_PROCESSES to 1, or choose one of {', '.join(TOGETHER)}",
        )
    if isinstance(parameters, Dpo) and parameters.losses.get("sft"):
        # Each process would take the mean over its own tokens: another loss where lengths differ.
        raise SelfimpError(
            f"the loss sft of dpo is a mean over all tokens of a batch, which {count} processes do not see",
            where=where,
            fix="set SELFIMP_TRAINING_PROCESSES to 1, or leave sft out of losses",
        )
    assert isinstance(parameters, Schedule)
    if parameters.batch_size % count:
        raise SelfimpError(
            f"a batch of {parameters.batch_size} rows cannot be shared out evenly among {count} processes",
            where=where,
            fix="choose a batch_size that is a multiple of SELFIMP_TRAINING_PROCESSES",
        )
    if parameters.lora_rank is not None and weights_are_shared_out():
        raise SelfimpError(
            "LoRA adapters cannot be merged into weights that no process has all of",
            where="SELFIMP_ACCELERATE",
            fix="leave it out, name a configuration of DeepSpeed up to ZeRO 2, or leave lora_rank out",
        )
