"""Where the log of interventions is: a line of a file for each entry, in a bucket an object for each.

Whoever appends must have read all entries before. On one machine a lock sees to it; among machines the
entry's number does, since each object is created once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from selfimp_dagster.store import ArtifactStore

LOG = "oversight.jsonl"
"""The log's name in the folder of its campaign."""

ENTRIES = "oversight"
"""The folder that takes its place in a bucket: `000000.json`, `000001.json`, ..., a line each."""


def log_path(store: ArtifactStore, campaign: str) -> Path:
    """The file of a log that is in no bucket."""
    return store.folder / campaign / LOG


def place(store: ArtifactStore, campaign: str) -> str:
    """The log's path or URL."""
    if store.mirror is not None:
        return store.mirror.bucket.address(f"{campaign}/{ENTRIES}")
    return str(log_path(store, campaign))


def content(store: ArtifactStore, campaign: str) -> bytes:
    """The log as it is now; nothing if there is none.

    Raises:
        SelfimpError: the bucket cannot be read.
    """
    if store.mirror is not None:
        store.mirror.bring(f"{campaign}/{ENTRIES}/")
        entries = sorted((store.folder / campaign / ENTRIES).glob("[0-9]*.json"))
        return b"".join(path.read_bytes() for path in entries)
    try:
        return log_path(store, campaign).read_bytes()
    except FileNotFoundError:
        return b""


def signature(store: ArtifactStore, campaign: str) -> object:
    """Something that changes when the log does; none if there is none. In a bucket tried once.

    Raises:
        Unreachable: the bucket does not answer.
    """
    if store.mirror is not None:
        return store.mirror.bucket.etags(f"{campaign}/{ENTRIES}/", waits=()) or None
    try:
        status = log_path(store, campaign).stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def campaigns(store: ArtifactStore) -> list[str]:
    """Those that may have a log."""
    if store.mirror is not None:
        return store.mirror.campaigns()
    return sorted(path.parent.name for path in store.folder.glob(f"*/{LOG}"))


@contextmanager
def exclusive(store: ArtifactStore, campaign: str) -> Iterator[None]:
    """One writer at a time, of those on this machine.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = store.folder / campaign
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".oversight.lock"):
        yield


def append(
    store: ArtifactStore, campaign: str, sequence: int, line: bytes, before: bytes, whole: int
) -> bool:
    """Writes an entry behind the whole ones, to the disk or the bucket; false if somebody else was first.

    Args:
        store: where the log is.
        campaign: whose log it is.
        sequence: the entry's number.
        line: the entry, without an end of line.
        before: the log as it was read.
        whole: how many bytes of it are entries. What a writer that died left behind them goes.
    """
    if store.mirror is not None:
        return store.add_note(f"{campaign}/{ENTRIES}/{sequence:06d}.json", line + b"\n")
    path = log_path(store, campaign)
    data = line + b"\n"
    if before[:whole] and not before[:whole].endswith(b"\n"):
        data = b"\n" + data
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if len(before) > whole:
            os.ftruncate(descriptor, whole)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY)  # a new file is on the disk once its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
