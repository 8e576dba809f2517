"""Objects in a bucket of S3-compatible storage: there as a whole or not at all.

Endpoint, region and credentials are boto3's, from the environment. What fails because the storage cannot be
reached or is overloaded is tried again, a bounded number of times, with a warning in the log each time.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
)
from s3transfer.exceptions import RetriesExceededError

from selfimp_dagster.errors import SelfimpError, Unreachable
from selfimp_dagster.settings import parse_store

WAITS = (1.0, 2.0, 4.0)
"""Seconds between the attempts to read."""

WAITS_OF_UPLOADS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
"""Seconds between the attempts to write: what is written took longer than what is read."""

_PASSING = (ConnectionError, HTTPClientError, IncompleteReadError, RetriesExceededError)
_PASSING_CODES = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException")
_CONNECT, _READ = 5, 60  # seconds until silence counts as a failure

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Bucket:
    """The objects under a prefix; their names are relative to it. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._bucket, self._prefix = parse_store(url)
        self.url = f"s3://{self._bucket}" + (f"/{self._prefix}" if self._prefix else "")

    def address(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}"

    def etags(self, prefix: str, waits: Sequence[float] | None = None) -> dict[str, str]:
        """The ETag of every object whose name begins so; one request per 1,000 of them.

        Raises:
            Unreachable: the storage does not answer.
            SelfimpError: it refuses.
        """
        return {
            item["Key"].removeprefix(self._key("")): item["ETag"]
            for page in self._pages(WAITS if waits is None else waits, Prefix=self._key(prefix))
            for item in page.get("Contents", ())
        }

    def folders(self) -> list[str]:
        """The first parts of the names of all objects that have several; errors as of `etags`."""
        return [
            item["Prefix"].removeprefix(self._key("")).rstrip("/")
            for page in self._pages(WAITS, Prefix=self._key(""), Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        ]

    def read(self, name: str) -> tuple[bytes, str] | None:
        """The content of a small object and its ETag; none if there is no such object."""

        def get() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            return answer["Body"].read(), answer["ETag"]

        return self._or_none(name, get)

    def download(self, name: str, path: Path, on_bytes: Callable[[int], None]) -> bool:
        """Writes an object into a file; false if there is no such object."""

        def get() -> bool:
            with path.open("wb") as stream:
                self._client.download_fileobj(self._bucket, self._key(name), stream, Callback=on_bytes)
            return True

        return bool(self._or_none(name, get))

    def size(self, name: str) -> int:
        """Of an object in bytes; 0 if there is none."""
        head = self._head(name)
        return int(head["ContentLength"]) if head else 0

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether there is an object of this size that `upload` put there as a file with this hash."""
        head = self._head(name)
        return head is not None and (head["ContentLength"], head["Metadata"].get("sha256")) == (size, sha256)

    def upload(self, path: Path, name: str, sha256: str, on_bytes: Callable[[int], None]) -> None:
        """Makes a file an object. `sha256` is kept beside it: storage can tell of a hash without reading."""

        def put() -> None:
            with path.open("rb") as stream:
                self._client.upload_fileobj(
                    stream,
                    self._bucket,
                    self._key(name),
                    ExtraArgs={"Metadata": {"sha256": sha256}},
                    Callback=on_bytes,
                )

        self._tried(name, put, WAITS_OF_UPLOADS)

    def put(self, name: str, content: bytes) -> str:
        """Writes a small object, over what was there, and returns its ETag."""
        answer = self._tried(
            name,
            lambda: self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content),
            WAITS_OF_UPLOADS,
        )
        return str(answer["ETag"])

    def creates_once(self) -> bool:
        """Whether the storage honours `If-None-Match: *`; leaves a tiny object, `.created-once`."""
        self.create(".created-once", b"first")
        return not self.create(".created-once", b"second")

    def create(self, name: str, content: bytes) -> bool:
        """Writes a small object if there is none of that name, and says whether this content is there now.

        Of several that write at the same moment one succeeds, if the storage honours `If-None-Match: *`.
        """

        def put() -> bool:
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(name), Body=content, IfNoneMatch="*"
                )
            except ClientError as error:
                if _status(error) == 409:  # somebody else is about to write it
                    raise _Busy from error
                if _status(error) != 412:
                    raise
                return False
            return True

        if self._tried(name, put, WAITS_OF_UPLOADS):
            return True
        found = self.read(name)  # an attempt whose answer was lost may have written it
        return found is not None and found[0] == content

    @cached_property
    def _client(self) -> Any:
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            max_pool_connections=32,
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        return boto3.session.Session().client("s3", config=config)

    def _head(self, name: str) -> dict[str, Any] | None:
        return self._or_none(name, lambda: self._client.head_object(Bucket=self._bucket, Key=self._key(name)))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _pages(self, waits: Sequence[float], **arguments: str) -> list[dict[str, Any]]:
        def pages() -> list[dict[str, Any]]:
            paginator = self._client.get_paginator("list_objects_v2")
            return list(paginator.paginate(Bucket=self._bucket, **arguments))

        return self._tried("", pages, waits)

    def _or_none(self, name: str, call: Callable[[], _T]) -> _T | None:
        def found() -> _T | None:
            try:
                return call()
            except ClientError as error:
                if _status(error) == 404 and _code(error) != "NoSuchBucket":
                    return None
                raise

        return self._tried(name, found, WAITS)

    def _tried(self, name: str, call: Callable[[], _T], waits: Sequence[float]) -> _T:
        """The result of a call, which is made again after each of these waits while the storage is away."""
        for attempt, wait in enumerate((*waits, None), start=1):
            try:
                return call()
            except (BotoCoreError, ClientError, RetriesExceededError, _Busy) as error:
                if not _is_passing(error):
                    self._refuse(name, error)
                if wait is None:
                    raise Unreachable(
                        f"the storage cannot be reached, after {attempt} attempts: {error}",
                        where=self.address(name),
                        fix="when it is back (see AWS_ENDPOINT_URL and the network), run the same again: "
                        "nothing complete was lost, and nothing half-done can be seen",
                    ) from error
                failed = f"attempt {attempt} of {len(waits) + 1} failed"
                _log.warning("%s: %s; %s, the next in %.0f s", self.address(name), error, failed, wait)
                time.sleep(wait)
        raise AssertionError

    def _refuse(self, name: str, error: Exception) -> NoReturn:
        """An answer that no further attempt will change."""
        code = _code(error)
        fix = {
            "NoSuchBucket": f"create the bucket {self._bucket}, or name another one in SELFIMP_STORE",
            "PermanentRedirect": "set AWS_REGION to the region of the bucket",
        }.get(
            code,
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be those of a user that may list, read and "
            f"write {self.url}, AWS_ENDPOINT_URL the storage's address; then run the same again",
        )
        raise SelfimpError(f"the storage refuses: {error}", where=self.address(name), fix=fix) from error


class _Busy(Exception):
    """Another writer is at the same object."""


def _is_passing(error: Exception) -> bool:
    """Whether the next attempt may succeed."""
    if isinstance(error, ClientError):
        return _status(error) >= 500 or _status(error) in (408, 429) or _code(error) in _PASSING_CODES
    return isinstance(error, (*_PASSING, _Busy))


def _status(error: Exception) -> int:
    response = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
