"""Stands before every program: sets its limits and, at the level landlock, shuts it in; then becomes it.

It runs by itself (`python -I -S launcher.py SPECIFICATION`) and imports nothing but the standard library.
The specification is JSON: `command`; `status`, a descriptor that is told what failed; `limits`, by the name
of the resource; and for landlock `rules`, rights by path, and `filter`, a descriptor with the seccomp
program.
"""

import ctypes
import json
import os
import resource
import sys
from typing import Any

LANDLOCK_ABI = 3
"""The version of Landlock (Linux 6.2) from which on its rights cover all writing to files."""

# include/uapi/linux/landlock.h
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_ALL_RIGHTS = (1 << 15) - 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_CREATE_RULESET_VERSION = 1

# include/uapi/linux/prctl.h, seccomp.h, capability.h, personality.h
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_ADDR_NO_RANDOMIZE = 0x0040000
_SIGKILL = 9

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def landlock_abi() -> int:
    """The version of Landlock that this kernel has switched on; 0: none."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))


def main(specification: dict[str, Any]) -> None:
    """Becomes the command, or says what failed and ends."""
    try:
        # The same addresses in every run, as far as the system lets it: what is ordered by them is the same.
        _libc.personality(_ADDR_NO_RANDOMIZE)
        for name, limit in specification["limits"].items():
            resource.setrlimit(getattr(resource, name), tuple(limit))
        if "rules" in specification:
            os.set_inheritable(specification["status"], False)
            _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
            _drop_capabilities()
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            _restrict_files(specification["rules"])
            _restrict_calls(specification["filter"])
        command = specification["command"]
        os.execv(command[0], command)
    except (OSError, ValueError) as error:
        os.write(specification["status"], str(error).encode())
        os._exit(1)


def _prctl(option: int, value: Any, further: Any = 0) -> None:
    _check("prctl", _libc.prctl(option, value, further, 0, 0))


def _drop_capabilities() -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    _check("capset", _libc.capset(ctypes.byref(header), bytes(24)))


def _restrict_files(rules: dict[str, int]) -> None:
    """From here on files are what the rules name: rights by the path of a file or of a folder."""
    everything = _Ruleset(_ALL_RIGHTS)
    ruleset = _check(
        "landlock_create_ruleset",
        _libc.syscall(_CREATE_RULESET, ctypes.byref(everything), ctypes.sizeof(everything), 0),
    )
    for path, rights in rules.items():
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        beneath = _PathBeneath(rights, descriptor)
        added = _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(beneath), 0)
        _check(f"landlock_add_rule {path}", added)
        os.close(descriptor)
    _check("landlock_restrict_self", _libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _restrict_calls(descriptor: int) -> None:
    """From here on system calls are those that the filter lets through."""
    instructions = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    program = _FilterProgram(len(instructions) // 8, instructions)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def _check(call: str, result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
