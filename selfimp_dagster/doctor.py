"""What works on this machine, and what does not and why."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import psutil

from selfimp_dagster.engines.choice import choose_engine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lineage.inventory import take_inventory
from selfimp_dagster.models.embedded import embedded_gguf
from selfimp_dagster.sandbox.machine import machine_sandbox
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore

_PACKAGES = (
    "selfimp-dagster",
    "dagster",
    "torch",
    "transformers",
    "trl",
    "duckdb",
    "polars",
    "reasoning-gym",
)
_FREE_GIB = 5  # two float32 checkpoints of the default model, its conversion, and room to work


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    subject: str
    works: bool
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Looks at cores, memory, disk, accelerators, engines, the default model, sandbox and versions."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("cores", True, f"{os.cpu_count()}")
    memory = psutil.virtual_memory()
    enough = memory.available > 4 * 2**30
    yield Finding("memory", enough, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    yield _disk(settings)
    yield from _torch()
    yield _engine(settings)
    yield _default_model()
    yield _sandbox()
    yield Finding(
        "campaigns",
        settings.campaigns.is_dir(),
        f"{settings.campaigns} ({len(list(settings.campaigns.glob('*.yaml')))} files)"
        if settings.campaigns.is_dir()
        else f"{settings.campaigns} does not exist: `selfimp init NAME` makes it",
    )
    yield Finding(
        "home", True, str(settings.home) + ("" if settings.home.exists() else " (made by the first run)")
    )
    yield from _bucket(settings)
    yield _store(settings)
    for package in _PACKAGES:
        try:
            yield Finding(f"version {package}", True, version(package))
        except PackageNotFoundError:
            yield Finding(f"version {package}", False, "not installed: install the project's dependencies")


def _disk(settings: Settings) -> Finding:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    return Finding("disk", free >= _FREE_GIB, f"{free:.1f} GiB free under {folder} (a round needs about 2)")


def _bucket(settings: Settings) -> Iterator[Finding]:
    if settings.bucket is None:
        return
    try:
        mirror = ArtifactStore.at(settings).mirror
        assert mirror is not None
        once = mirror.bucket.creates_once()
    except SelfimpError as error:
        yield Finding("bucket", False, f"{error.where}: {error.what}: {error.fix}")
        return
    yield Finding(
        "bucket",
        once,
        f"{settings.bucket} can be read and written"
        if once
        else f"{settings.bucket} ignores If-None-Match: of two interventions at one moment one can be lost",
    )


def _store(settings: Settings) -> Finding:
    try:
        inventory = take_inventory(ArtifactStore.at(settings))
    except SelfimpError as error:  # of the bucket
        return Finding("store", False, f"{error.where}: {error.what}")
    rounds, damage = len(inventory.artifacts), inventory.damage
    if damage:
        return Finding(
            "store", False, f"{rounds} rounds, {len(damage)} gaps (`selfimp status` names them): {damage[0]}"
        )
    return Finding("store", True, f"{rounds} rounds, nothing missing")


def _torch() -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield Finding("torch", False, "not installed: install the project's dependencies")
        return
    import torch

    from selfimp_dagster.models.loading import pick_device, pick_dtype

    device = pick_device("auto")
    if device == "cuda":
        names = ", ".join(torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count()))
        yield Finding("gpu", True, names)
    else:
        yield Finding("gpu", True, "none: everything runs on the CPU")
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    yield Finding(
        "numerics", True, f"sampling and training in {dtype} on {device}, {torch.get_num_threads()} threads"
    )


def _engine(settings: Settings) -> Finding:
    try:
        return Finding("engine", True, str(choose_engine(settings.engine)))
    except SelfimpError as error:
        return Finding("engine", False, f"{error.what}: {error.fix}")


def _sandbox() -> Finding:
    try:
        level = machine_sandbox().level
    except SelfimpError as error:
        return Finding("sandbox", False, f"{error.what}: {error.fix}")
    return Finding("sandbox", True, f"{level}: programs that a model wrote can be run")


def _default_model() -> Finding:
    try:
        path = embedded_gguf()
    except SelfimpError as error:
        return Finding("default model", False, f"{error.what}: {error.fix}")
    return Finding("default model", True, f"SmolLM2-135M-Instruct, {path.stat().st_size / 1e6:.0f} MB")
