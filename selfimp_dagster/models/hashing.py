"""What identifies a policy: its weights, configuration and tokenizer, by content."""

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from selfimp_dagster.errors import SelfimpError

POLICY_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""Name patterns of the files that make a policy answer as it does."""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def policy_hash(folder: Path) -> str:
    """The identity of the policy in `folder`, as 64 hex digits.

    Covers the names and contents of the files of POLICY_FILES that lie directly in the folder,
    so model cards, logs and manifests can change without changing the policy.

    Raises:
        SelfimpError: the folder holds no safetensors weights.
    """
    files = sorted(
        path
        for path in folder.glob("*")
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in POLICY_FILES)
    )
    if not any(path.suffix == ".safetensors" for path in files):
        raise SelfimpError(
            "there are no *.safetensors weights here to identify",
            where=str(folder),
            fix="name a folder that holds a model saved with save_pretrained()",
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()
