"""Where a campaign's base model comes from: embedded, made from nothing, a local folder, or the hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.embedded import EMBEDDED_NAME, embedded_model
from selfimp_dagster.models.hashing import POLICY_FILES
from selfimp_dagster.models.loading import check_model_folder
from selfimp_dagster.models.scratch import SCRATCH_NAME, scratch_model

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelSource:
    """One parsed source. `revision` is the hub's commit, empty for the other kinds."""

    kind: Literal["embedded", "scratch", "local", "hub"]
    name: str
    revision: str = ""


def parse_source(source: str) -> ModelSource:
    """Reads `embedded:<name>`, `scratch:<name>`, an existing local folder, or `org/name@<40-hex revision>`.

    Raises:
        SelfimpError: it is none of these, or a hub model without a pinned revision.
    """
    if source.startswith("embedded:"):
        name = source.removeprefix("embedded:")
        if name != EMBEDDED_NAME:
            raise SelfimpError(
                f"there is no embedded model called {name!r}",
                where=source,
                fix=f"write embedded:{EMBEDDED_NAME}",
            )
        return ModelSource("embedded", name)
    if source.startswith("scratch:"):
        name = source.removeprefix("scratch:")
        if name != SCRATCH_NAME:
            raise SelfimpError(
                f"there is no recipe for a model called {name!r}",
                where=source,
                fix=f"write scratch:{SCRATCH_NAME}",
            )
        return ModelSource("scratch", name)
    if Path(source).expanduser().is_dir():
        return ModelSource("local", source)
    name, _, revision = source.partition("@")
    if not _HUB_ID.fullmatch(name):
        raise SelfimpError(
            "this is neither an embedded model, nor an existing folder, nor a hub model",
            where=source,
            fix=f"write embedded:{EMBEDDED_NAME}, the path of a folder, or org/name@<40-hex revision>",
        )
    if not _REVISION.fullmatch(revision):
        raise SelfimpError(
            "a hub model must be pinned to a commit, or the same campaign means another model tomorrow",
            where=source,
            fix=f"write {name}@<revision> with the 40-hex commit from the model's Files page",
        )
    return ModelSource("hub", name, revision)


def resolve_model(source: str, cache: Path) -> Path:
    """The local folder that holds the model named by `source`, fetched or converted when needed.

    Args:
        source: see `parse_source`.
        cache: folder for converted and downloaded models.

    Raises:
        SelfimpError: the source cannot be read, or what it leads to is not a safetensors model.
    """
    parsed = parse_source(source)
    if parsed.kind == "embedded":
        return embedded_model(cache)
    if parsed.kind == "scratch":
        return scratch_model(cache)
    local = parsed.kind == "local"
    folder = Path(parsed.name).expanduser().resolve() if local else _download(parsed, cache)
    check_model_folder(folder)
    return folder


def _download(source: ModelSource, cache: Path) -> Path:
    """The snapshot of a pinned hub model: weights in safetensors and text files, never code or pickles."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                source.name,
                revision=source.revision,
                cache_dir=cache / "hub",
                allow_patterns=list(POLICY_FILES),
                ignore_patterns=["*.py", "*/*"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SelfimpError(
            f"the hub did not deliver this model: {str(error).splitlines()[0]}",
            where=f"{source.name}@{source.revision}",
            fix="check the name, the revision, the network and your access, or use a local folder",
        ) from error
