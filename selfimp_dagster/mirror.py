"""The copy of a bucket's artifacts that this machine works on.

The bucket is laid out as a local store. Here are copies of its small files, brought up to date before they
are asked, and of the files of artifacts that were needed so far. Whatever is here and in the bucket can be
deleted; only what is still in the making is nowhere else.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock

from selfimp_dagster.bucket import Bucket
from selfimp_dagster.models.hashing import file_sha256
from selfimp_dagster.progress import LogProgress, shown_or
from selfimp_dagster.round_key import CAMPAIGN_PATTERN
from selfimp_dagster.store import MANIFEST, write_error, write_file

INDEX = ".bucket.json"
"""Beside the rounds of a campaign: the ETag of every small file as it is here."""

_SMALL = re.compile(
    rf"{CAMPAIGN_PATTERN}/(\d{{4}}/\w+/{re.escape(MANIFEST)}|(oversight|evolution)/\d+\.json)"
)
_SERVES = 10.0  # seconds for which one look at a campaign serves whoever has asked before it
_AT_A_TIME = 16  # small files
_LARGE = 32 * 2**20  # bytes of a transfer that is shown

_log = logging.getLogger(__name__)


class Mirror:
    """A folder as the copy of a bucket. Processes that share the folder take turns."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.folder, self.bucket = folder, bucket
        self._lock = threading.RLock()
        self._looked: dict[str, float] = {}

    def campaigns(self) -> list[str]:
        """The campaigns that the bucket has anything of."""
        return sorted(name for name in self.bucket.folders() if re.fullmatch(CAMPAIGN_PATTERN, name))

    def look(self, campaign: str, asked: float) -> None:
        """Brings the small files of a campaign up to date, as of the moment `asked` (monotonic) or later.

        Raises:
            SelfimpError: the bucket cannot be read, or the folder not be written.
        """
        with self._lock:
            began = time.monotonic()
            if self._looked.get(campaign, float("-inf")) < max(asked, began - _SERVES):
                self.bring(f"{campaign}/")
                self._looked[campaign] = began

    def bring(self, prefix: str) -> None:
        """Brings the small files whose names begin so up to date: `<campaign>/` or more."""
        campaign = prefix.partition("/")[0]
        with self._turn(campaign):
            there = {name: etag for name, etag in self.bucket.etags(prefix).items() if _SMALL.fullmatch(name)}
            known = self._index(campaign)
            new = [
                name
                for name, etag in there.items()
                if known.get(name) != etag or not (self.folder / name).is_file()
            ]
            gone = [name for name in known if name.startswith(prefix) and name not in there]
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                found = dict(zip(new, pool.map(self.bucket.read, new), strict=True))
            for name, content in found.items():
                if content is None:  # deleted since the listing
                    gone.append(name)
                    continue
                self._write(name, content[0])
                known[name] = content[1]
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
                known.pop(name, None)
            if new or gone:
                self._write_index(campaign, known)

    def fetch(self, name: str, sha256: str) -> str | None:
        """Brings one file of an artifact here; if it cannot be had as it was written, why."""
        path, address = self.folder / name, self.bucket.address(name)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        size = self.bucket.size(name) if path.suffix == ".safetensors" else 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _shown(f"fetching {path.name}", size) as on_bytes:
                if not self.bucket.download(name, partial, on_bytes):
                    return f"{address} is gone"
            if file_sha256(partial) != sha256:
                return f"{address} is not what was written (hash mismatch)"
            os.replace(partial, path)
        except OSError as error:
            raise write_error(error, path) from error
        finally:
            partial.unlink(missing_ok=True)
        return None

    def upload(self, source: Path, folder: str, files: Mapping[str, str], anew: bool) -> None:
        """Puts files (name in the folder `source`, SHA-256) into `folder` of the bucket.

        What an attempt that was ended has put there stays, unless all is to be written `anew`.
        """
        sizes = {name: (source / name).stat().st_size for name in files}
        left = [
            name
            for name, sha256 in files.items()
            if anew or not self.bucket.holds(f"{folder}/{name}", sizes[name], sha256)
        ]
        with _shown("uploading", sum(sizes[name] for name in left)) as on_bytes:
            for name in left:
                self.bucket.upload(source / name, f"{folder}/{name}", files[name], on_bytes)

    def learn(self, name: str, etag: str) -> None:
        """That the copy of a small file is that of the object with this ETag."""
        campaign = name.partition("/")[0]
        with self._turn(campaign):
            self._write_index(campaign, {**self._index(campaign), name: etag})

    def _turn(self, campaign: str) -> FileLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, self.folder) from error
        return FileLock(self.folder / f".{campaign}.lock")

    def _index(self, campaign: str) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / campaign / INDEX).read_text()))
        except FileNotFoundError:
            return {}

    def _write_index(self, campaign: str, index: Mapping[str, str]) -> None:
        self._write(f"{campaign}/{INDEX}", json.dumps(index, indent=0, sort_keys=True).encode())

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, path) from error
        write_file(path, content)


@cache
def mirror_of(folder: Path, url: str) -> Mirror:
    """The one mirror that this process has of a bucket in a folder."""
    return Mirror(folder, Bucket(url))


@contextmanager
def _shown(label: str, size: int) -> Iterator[Callable[[int], None]]:
    """What to tell of bytes that were moved; a bar shows them if there are many."""
    if size < _LARGE:
        yield lambda moved: None
        return
    with shown_or(LogProgress(_log.warning)).stage(label, total=size / 2**20, unit="MiB") as bar:
        yield lambda moved: bar.advance(moved / 2**20)
