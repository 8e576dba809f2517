"""How a program is shut in: by bubblewrap's namespaces, or by Landlock where they cannot be had."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from selfimp_dagster.sandbox import launcher

Level = Literal["bubblewrap", "landlock"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""The stricter first. The filter of system calls and the limits are the same at both."""

_SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
)
"""What an interpreter may need beside its own installation."""

_PYTHON = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]  # undocumented, but there
"""The interpreter itself, not a link to it in a virtual environment: programs see no installed packages."""

_FLAGS = ("-s", "-S", "-B", "-u")
_READ = launcher.READ_FILE | launcher.READ_DIR
_WRITE = launcher.READ_FILE | launcher.WRITE_FILE | launcher.TRUNCATE
_OWN = _WRITE | launcher.READ_DIR | launcher.MAKE_REG | launcher.REMOVE_FILE


def obstacle(level: Level) -> str | None:
    """Why the level cannot be had on this machine, as far as that is seen without trying; none: try it."""
    if level == "bubblewrap":
        return None if shutil.which("bwrap") else "the program bwrap is not installed"
    if sys.platform != "linux":
        return "Landlock is a part of Linux"
    abi = launcher.landlock_abi()
    if abi >= launcher.LANDLOCK_ABI:
        return None
    return f"this kernel has version {abi} of Landlock, which must be {launcher.LANDLOCK_ABI} (Linux 6.2)"


def work_folder(level: Level, work: Path) -> str:
    """The path under which a program sees its folder."""
    return "/work" if level == "bubblewrap" else str(work)


def specification(level: Level, program: Path, work: Path, filter_: int, status: int) -> dict[str, Any]:
    """What tells the launcher to run `program/main.py` with the folder `work`, but for the limits.

    Args:
        filter_: a descriptor that holds the filter of system calls.
        status: a descriptor that is told what became of the start.
    """
    if level == "landlock":
        return {
            "command": [str(_PYTHON), *_FLAGS, str(program / "main.py")],
            "rules": {
                **{path: _rights(path) for path in _readable()},
                os.devnull: _WRITE,
                str(program): _READ,
                str(work): _OWN,
            },
            "filter": filter_,
            "status": status,
        }
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    return {
        "command": [
            *(bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
            *("--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
            *(word for path in _readable() for word in ("--ro-bind", path, path)),
            *("--dev-bind", os.devnull, os.devnull, "--ro-bind", str(program), "/program"),
            *("--bind", str(work), "/work", "--remount-ro", "/", "--chdir", "/work"),
            *("--seccomp", str(filter_), "--json-status-fd", str(status)),
            *(str(_PYTHON), *_FLAGS, "/program/main.py"),
        ],
        "status": status,
    }


def _readable() -> list[str]:
    """The interpreter's installation and the system's libraries, as far as they are there."""
    return [path for path in dict.fromkeys((sys.base_prefix, *_SYSTEM)) if os.path.exists(path)]


def _rights(path: str) -> int:
    return _READ | launcher.EXECUTE if os.path.isdir(path) else launcher.READ_FILE
