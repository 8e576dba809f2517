"""The memory of this process: what it took at most, and what is done where it does not suffice.

Importing this costs no torch. On Linux the peak of the main memory can be begun anew; where that is not
allowed, it is the peak since the process began.
"""

import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from selfimp_dagster.errors import SelfimpError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK = "5"  # what resets the peak of the resident set, proc(5)

_halvings = 0


def halvings() -> int:
    """How often this process halved a batch for want of memory."""
    return _halvings


def forget_peaks() -> None:
    """Begins the peaks anew."""
    with suppress(OSError):
        _RESET.write_text(_PEAK)
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Main memory that the process took at most."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def peak_gpu_bytes() -> int | None:
    """Memory of the current GPU that torch took at most; None where it has not used one."""
    cuda = _cuda()
    return None if cuda is None else int(cuda.max_memory_allocated())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the main memory did not suffice."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (
        isinstance(error, Exception) and bool(should_reduce_batch_size(error))
    )


def make_room() -> None:
    """Counts a halving, and gives back what nothing refers to."""
    global _halvings
    _halvings += 1
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()


def in_halves(
    items: Sequence[_Item], work: Callable[[Sequence[_Item]], _Result], *, where: str, fix: str
) -> Iterator[tuple[Sequence[_Item], _Result]]:
    """What `work` makes of the items, part by part: all at once, or where memory does not suffice in halves.

    Raises:
        SelfimpError: it does not suffice for one item.
    """
    try:
        result = work(items)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise too_little(where, fix) from error
    else:
        yield items, result
        return
    make_room()  # here, where the error no longer holds what it was raised over
    middle = -(-len(items) // 2)
    for half in (items[:middle], items[middle:]):
        yield from in_halves(half, work, where=where, fix=fix)


def too_little(where: str, fix: str) -> SelfimpError:
    """The refusal of work that does not fit into memory however it is cut."""
    return SelfimpError("memory does not suffice, not even for one at a time", where=where, fix=fix)


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
