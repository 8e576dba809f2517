"""What a stage takes: time, tokens, memory."""

import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfimp_dagster import memory


class StageCost(BaseModel):
    """What a stage of a round took.

    `processor_seconds` are those of all threads of its process, `peak_memory_bytes` what the process had of
    the main memory at most, weights that were loaded before included, `peak_gpu_memory_bytes` what torch had
    of a GPU's, where it used one. `halvings` counts the batches that were halved for want of memory. Rounds
    of earlier versions do not have these.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    tokens: int
    processor_seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    halvings: int = 0


class Meter:
    """Measures a stage from the moment that it is made."""

    def __init__(self) -> None:
        memory.forget_peaks()
        self._started, self._processor = time.monotonic(), time.process_time()
        self._halvings = memory.halvings()

    def cost(self, tokens: int) -> StageCost:
        """What the stage took so far, with the tokens that went through models."""
        return StageCost(
            seconds=time.monotonic() - self._started,
            tokens=tokens,
            processor_seconds=time.process_time() - self._processor,
            peak_memory_bytes=memory.peak_bytes(),
            peak_gpu_memory_bytes=memory.peak_gpu_bytes(),
            halvings=memory.halvings() - self._halvings,
        )

    def measured(self, tokens: int) -> dict[str, Any]:
        """The same as an artifact keeps it beside its content."""
        return self.cost(tokens).model_dump()
