"""Loads policies from local folders: safetensors only, no code from the folder is ever run."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selfimp_dagster.errors import SelfimpError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DtypeName = Literal["auto", "float32", "bfloat16"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_model_folder(folder: Path) -> None:
    """Refuses a folder that is not a complete model in safetensors format.

    Raises:
        SelfimpError: naming everything that is missing.
    """
    if not folder.is_dir():
        raise SelfimpError(
            "there is no such folder", where=str(folder), fix="name an existing folder that holds a model"
        )
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        refused = " (pickled weights, *.bin and *.pt, are refused: loading them can run code)"
        missing.append("*.safetensors" + (refused if pickled else ""))
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        missing.append(f"a tokenizer ({', '.join(_TOKENIZER_FILES)})")
    if missing:
        raise SelfimpError(
            "this is not a complete model; missing: " + "; ".join(missing),
            where=str(folder),
            fix="save model and tokenizer there with save_pretrained(), which writes safetensors",
        )


def pick_device(device: str) -> str:
    """`device` itself, or for `auto` CUDA where there is one, else the CPU.

    Raises:
        SelfimpError: it is a GPU that torch does not see here.
    """
    if device == "cpu":
        return device
    import torch

    seen = torch.cuda.device_count()
    if device == "auto":
        return "cuda" if seen else "cpu"
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= seen:
        raise SelfimpError(
            f"{device} is asked for, and torch sees {seen or 'no'} CUDA device{'' if seen == 1 else 's'}",
            where="engines.device",
            fix="leave it on auto, or see whether CUDA_VISIBLE_DEVICES, the driver (nvidia-smi) and torch's "
            "build (python -c 'import torch; print(torch.version.cuda)') fit",
        )
    return device


def pick_dtype(dtype: DtypeName, device: str) -> "torch.dtype":
    """The torch dtype of a name; `auto` is bfloat16 where the device multiplies it faster than float32.

    On a CPU that takes AMX: with AVX-512 alone nothing was gained (benchmarks/engine.py). The answer
    follows from the hardware, never from a measurement, so that the same machine always samples in
    the same numerics.

    Args:
        dtype: a dtype's name or `auto`.
        device: a torch device, already picked (not `auto`).
    """
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if device.startswith("cuda"):
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if faster else torch.float32


def load_model(folder: Path, dtype: DtypeName = "auto", device: str = "auto") -> "PreTrainedModel":
    """The causal language model saved in `folder`, in evaluation mode on `device`.

    Raises:
        SelfimpError: the folder is not a complete model, or its architecture is not one of transformers.
    """
    check_model_folder(folder)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Its bars would end up as stray lines in a run's log; callers show progress themselves.
    logging.disable_progress_bar()
    device = pick_device(device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=pick_dtype(dtype, device),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise SelfimpError(
            f"transformers cannot load this model: {error}",
            where=str(folder),
            fix="use a causal language model whose architecture transformers itself implements",
        ) from error
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer saved in `folder`.

    Raises:
        SelfimpError: the folder is not a complete model, or the tokenizer cannot be read.
    """
    check_model_folder(folder)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SelfimpError(
            f"transformers cannot load this tokenizer: {error}",
            where=str(folder),
            fix="save it there again with tokenizer.save_pretrained()",
        ) from error
