"""What a step runs on: all that can change its floating-point results without its inputs having changed."""

import hashlib
import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "accelerate",
    "datasets",
    "gymnasium",
    "math-verify",
    "numpy",
    "peft",
    "polars",
    "reasoning-gym",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def environment() -> dict[str, str]:
    """Machine, interpreter, code and packages of this process, each by name.

    `code` is the hash of this package's source files: it moves where the version does not. `threads`,
    `kernels` (the instructions that torch computes with) and `gpu` are there once torch is loaded: a step
    that does without it does not depend on them.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return dict(_lasting())
    loaded = {
        "threads": str(torch.get_num_threads()),
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        loaded["gpu"] = torch.cuda.get_device_name(0)
    return {**_lasting(), **loaded}


@cache
def _lasting() -> dict[str, str]:
    """What stays the same while a process lives."""
    return {
        "code": _code(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        **{package: found for package in _PACKAGES if (found := _version(package))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _code() -> str:
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    """The processor's name where the system tells it: kernels are chosen by it, and round differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
