"""Runs a program in the sandbox: within limits, with bounded output, and with a verdict that comes again."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.sandbox import launcher
from selfimp_dagster.sandbox.levels import Level, specification, work_folder
from selfimp_dagster.sandbox.system_calls import filter_program

Limit = Literal["time", "memory", "processes", "output", "disk"]

_LOOK = 0.05  # seconds between two looks at the program's folder
_MOST_FILES = 256
_OPEN_FILES = 64
_SIGXCPU, _SIGKILL, _SIGSYS = 24, 9, 31


class Limits(BaseModel):
    """What a program may use up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: int = Field(default=5, ge=1, description="Seconds of computing.")
    wall_seconds: float = Field(default=30, gt=0, description="Seconds until it must have ended.")
    memory_mib: int = Field(
        default=512, ge=64, description="MiB of address space, the interpreter's included."
    )
    output_kib: int = Field(default=64, ge=1, description="KiB of standard output, and of standard error.")
    disk_kib: int = Field(default=1024, ge=1, description="KiB that the files in its folder may hold.")


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    `status` is its exit code, or minus the signal that ended it; `limit` is the limit that it hit, if any.
    What it wrote is cut off at `Limits.output_kib`.
    """

    status: int
    stdout: str
    stderr: str
    limit: Limit | None


class Sandbox:
    """Runs Python programs at one level of isolation; `machine_sandbox` gives one that holds.

    A program sees the standard library and its own files, reaches no network and no other process, and writes
    in an empty folder that is gone afterwards. Hash seed, time zone, locale and, where the system lets it,
    addresses are the same in every run.
    """

    def __init__(self, level: Level) -> None:
        self.level = level

    def run(
        self,
        program: str,
        stdin: str = "",
        *,
        files: Mapping[str, str] | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
    ) -> Ended:
        """Runs a program to its end or to a limit.

        Args:
            program: Python source.
            stdin: what it finds on its standard input.
            files: further files beside the program by name, such as modules that it imports.

        Raises:
            SelfimpError: it could not be started, which says nothing about the program.
        """
        with tempfile.TemporaryDirectory(prefix="selfimp-sandbox-") as root:
            folder = Path(root)
            own, work = folder / "program", folder / "work"
            own.mkdir()
            work.mkdir()
            for name, text in {**(files or {}), "main.py": program}.items():
                (own / name).write_text(text, encoding="utf-8")
            (folder / "stdin").write_text(stdin, encoding="utf-8")
            filter_, (told, tell) = os.memfd_create("filter"), os.pipe()
            with (
                os.fdopen(told) as start,
                os.fdopen(tell, "w") as ours,
                os.fdopen(filter_, "r+b", 0) as calls,
            ):
                calls.write(filter_program())
                calls.seek(0)
                asked = specification(self.level, own, work, filter_, tell) | {"limits": _resources(limits)}
                with (
                    (folder / "stdin").open("rb") as read,
                    subprocess.Popen(
                        [sys.executable, "-I", "-S", launcher.__file__, json.dumps(asked)],
                        stdin=read,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        cwd=work,
                        env=_variables(work_folder(self.level, work)),
                        pass_fds=[filter_, tell],
                        start_new_session=True,
                    ) as process,
                ):
                    try:
                        stdout, stderr, limit = _watch(process, work, limits)
                    except BaseException:
                        process.kill()
                        raise
                ours.close()
                message = start.read()
        if limit is None and not self._started(message):
            raise SelfimpError(
                f"a program could not be started: {(message or stderr).strip()}",
                where=f"sandbox, level {self.level}",
                fix="see `selfimp doctor`",
            )
        status = _status(process.returncode)
        return Ended(status, stdout, stderr, limit or _limit_behind(status, stderr))

    def _started(self, message: str) -> bool:
        """Whether the program itself ended: bubblewrap tells its exit code then, the launcher nothing."""
        return "exit-code" in message if self.level == "bubblewrap" else not message


def _resources(limits: Limits) -> dict[str, tuple[int, int]]:
    """Soft and hard limits that the kernel holds, by name."""

    def both(value: int) -> tuple[int, int]:
        return value, value

    return {
        "RLIMIT_AS": both(limits.memory_mib * 2**20),
        "RLIMIT_CPU": (limits.cpu_seconds, limits.cpu_seconds + 1),
        "RLIMIT_FSIZE": both(limits.disk_kib * 1024),
        "RLIMIT_NOFILE": both(_OPEN_FILES),
        "RLIMIT_CORE": both(0),
    }


def _variables(work: str) -> dict[str, str]:
    """All environment variables that a program has."""
    return {
        "HOME": work,
        "TMPDIR": work,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
    }


def _watch(process: "subprocess.Popen[bytes]", work: Path, limits: Limits) -> tuple[str, str, Limit | None]:
    """What the process writes until it has ended; it is ended at a limit that the kernel does not hold."""
    assert process.stdout is not None
    assert process.stderr is not None
    most, deadline = limits.output_kib * 1024, time.monotonic() + limits.wall_seconds
    written: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    limit: Limit | None = None
    with selectors.DefaultSelector() as waiting:
        for stream in written:
            waiting.register(stream, selectors.EVENT_READ)
        while waiting.get_map() or process.poll() is None:
            for key, _ in waiting.select(_LOOK):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    waiting.unregister(key.fileobj)
                written[key.fileobj] += chunk
            if limit is None:
                if any(len(text) > most for text in written.values()):
                    limit = "output"
                elif _holds_too_much(work, limits.disk_kib * 1024):
                    limit = "disk"
                elif time.monotonic() > deadline:
                    limit = "time"
                if limit is not None:
                    process.kill()
    stdout, stderr = (bytes(text[:most]).decode(errors="replace") for text in written.values())
    return stdout, stderr, limit


def _holds_too_much(work: Path, most: int) -> bool:
    with os.scandir(work) as entries:
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
    return sum(sizes) > most or len(sizes) > _MOST_FILES


def _status(code: int) -> int:
    """Codes above 128 are taken for signals, as shells do: bubblewrap tells them so."""
    return 128 - code if code > 128 else code


def _limit_behind(status: int, stderr: str) -> Limit | None:
    """The limit at which the kernel or the interpreter ended the program."""
    if status in (-_SIGXCPU, -_SIGKILL):  # a program that ignores the first gets the second
        return "time"
    if status == -_SIGSYS:
        return "processes"
    last = stderr.rstrip().rpartition("\n")[2]
    return "memory" if status != 0 and last.startswith("MemoryError") else None
