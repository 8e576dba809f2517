"""The artifact store: `<store>/<campaign>/<0000>/<asset>/`.

An artifact is a folder of files and a `manifest.json` that names the folder, the sha256 of
every file, its parents, and the configuration, code and machine that made it. The manifest is written
last and atomically, so an artifact without one does not exist, and readers see either the old
artifact or the new one. Folders are named after their content: materializing an asset again
leaves what later rounds were built on in place.

With a bucket the artifacts are there, laid out in the same way, and the folder holds copies (mirror.py). A
store sees the bucket as it was when the store was opened, or later.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from selfimp_dagster import __version__
from selfimp_dagster.environment import environment
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.hashing import file_sha256
from selfimp_dagster.records import check_schema, content_hash
from selfimp_dagster.round_key import CAMPAIGN_PATTERN, RoundKey
from selfimp_dagster.settings import Settings

if TYPE_CHECKING:
    from selfimp_dagster.mirror import Mirror

MANIFEST = "manifest.json"
FORMAT = 1


class Manifest(BaseModel):
    """What an artifact is and where it came from.

    `config` is what `config_hash` is the hash of, `environment` what the artifact was made on (see
    environment.py); manifests written before these were recorded have neither. `environment` and
    `measurements` (seconds, tokens) are no part of the data version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    round: str
    asset: str
    folder: str
    data_version: str
    files: dict[str, str]
    parents: dict[str, str]
    config_hash: str
    code_version: str
    facts: dict[str, Any]
    measurements: dict[str, Any]
    config: dict[str, Any] | None = None
    environment: dict[str, str] | None = None


class _Versioned(BaseModel):
    """What a manifest of any format says."""

    format: int
    code_version: str = "unknown"


class Artifact:
    """One complete artifact of the store."""

    def __init__(self, manifest: Manifest, root: Path, mirror: "Mirror | None" = None) -> None:
        self.manifest = manifest
        self.folder = root / manifest.folder
        self._mirror = mirror

    @property
    def data_version(self) -> str:
        return self.manifest.data_version

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    @property
    def measurements(self) -> dict[str, Any]:
        return self.manifest.measurements

    def has_table(self, name: str) -> bool:
        """Whether it holds the table `name`; artifacts of an earlier version may lack a newer one."""
        return f"{name}.parquet" in self.manifest.files

    def has_json(self, name: str) -> bool:
        """Whether it holds the JSON file `name`; some are only there in some rounds."""
        return f"{name}.json" in self.manifest.files

    def table(self, name: str, schema: pl.Schema) -> pl.DataFrame:
        """The Parquet table `name`, checked against its schema."""
        path = self.file(f"{name}.parquet")
        return check_schema(pl.read_parquet(path, glob=False), schema, where=str(path))

    def json(self, name: str) -> Any:
        return json.loads(self.file(f"{name}.json").read_text())

    def file(self, name: str) -> Path:
        """Where one of its files is on this machine.

        Raises:
            SelfimpError: it is not here, and the bucket does not have it as it was written.
        """
        if (problem := self.fetch(name)) is not None:
            raise self._lost(problem)
        return self.folder / name

    def fetch(self, name: str) -> str | None:
        """Brings one of its files here, if it is in a bucket; why not, if that cannot be."""
        if self._mirror is None or (self.folder / name).is_file():
            return None
        return self._mirror.fetch(self._object(name), self.manifest.files[name])

    def check(self, names: Iterable[str]) -> None:
        """Compares these files with the hashes in the manifest.

        Raises:
            SelfimpError: one is gone or was altered since it was written.
        """
        for name in names:
            file, sha256 = self.folder / name, self.manifest.files[name]
            if _holds(file, sha256):
                continue
            if self._mirror is not None:  # which compares what it fetches
                problem = self._mirror.fetch(self._object(name), sha256)
            elif not file.is_file():
                problem = f"the file {name} is gone"
            else:
                problem = f"the file {name} is not what was written (hash mismatch)"
            if problem is not None:
                raise self._lost(problem)

    def _object(self, name: str) -> str:
        return f"{self.manifest.round}/{self.manifest.asset}/{self.manifest.folder}/{name}"

    def _lost(self, problem: str) -> SelfimpError:
        key, asset = RoundKey.parse(self.manifest.round), self.manifest.asset
        return SelfimpError(problem, where=f"{key} {asset}", fix=_again(key, asset))


class Draft:
    """An artifact in the making. Files are put into `folder`, then `commit` makes them the artifact.

    The folder's name is a function of the inputs, so a step that was killed and is run again on
    the same inputs finds what it had written; other inputs get another folder.
    """

    def __init__(
        self,
        root: Path,
        key: RoundKey,
        asset: str,
        parents: dict[str, str],
        config: dict[str, Any],
        mirror: "Mirror | None" = None,
    ) -> None:
        self._root, self._key, self._asset, self._parents = root, key, asset, parents
        self._config, self._mirror = config, mirror
        inputs = content_hash([str(key), asset, parents, config, __version__])
        self.folder = root / f".draft-{inputs[:16]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, self.folder) from error

    def write_table(self, name: str, table: pl.DataFrame, schema: pl.Schema) -> None:
        """Writes a Parquet table atomically."""
        check_schema(table, schema, where=f"{self._key}/{self._asset}/{name}")
        write_parquet(self.folder / f"{name}.parquet", table)

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        write_file(self.folder / f"{name}.json", text.encode())

    def commit(self, *, facts: dict[str, Any], measurements: dict[str, Any]) -> Artifact:
        """Hashes every file and makes the draft the artifact of its round, atomically.

        `facts` are what the artifact says of itself and part of its data version;
        `measurements` (seconds, tokens) are kept beside it and not hashed. With a bucket it is there first:
        a draft that could not be uploaded stays what it was.

        Raises:
            SelfimpError: the disk is full or refuses, or so does the bucket.
        """
        files = {
            str(path.relative_to(self.folder)): file_sha256(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        }
        data_version = content_hash([files, facts])
        final = self._root / data_version[:16]
        manifest = Manifest(
            format=FORMAT,
            round=str(self._key),
            asset=self._asset,
            folder=final.name,
            data_version=data_version,
            files=files,
            parents=self._parents,
            config_hash=content_hash(self._config),
            code_version=__version__,
            facts=facts,
            measurements=measurements,
            config=self._config,
            environment=environment(),
        )
        content = (manifest.model_dump_json(indent=2) + "\n").encode()
        etag = self._publish(manifest, content) if self._mirror else None
        partial = self._root / f".{MANIFEST}.partial"
        try:
            for hidden in self.folder.glob(".*"):
                shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
            if final.exists() and not all(_holds(final / name, sha256) for name, sha256 in files.items()):
                shutil.rmtree(final)  # altered since it was made: the draft is what it was
            if not final.exists():
                os.replace(self.folder, final)
            partial.write_bytes(content)
            os.replace(partial, self._root / MANIFEST)
            if self.folder.exists():  # the same content was there already, and somebody may be reading it
                shutil.rmtree(self.folder)
        except OSError as error:
            raise write_error(error, final) from error
        if self._mirror and etag:
            self._mirror.learn(f"{self._key}/{self._asset}/{MANIFEST}", etag)
        return Artifact(manifest, self._root, self._mirror)

    def _publish(self, manifest: Manifest, content: bytes) -> str:
        """Puts the files into the bucket and then the manifest, whose ETag it returns."""
        assert self._mirror is not None
        known = self._root / MANIFEST
        mended = known.is_file() and _version(known.read_bytes()) == manifest.data_version
        place = f"{self._key}/{self._asset}"
        self._mirror.upload(self.folder, f"{place}/{manifest.folder}", manifest.files, anew=mended)
        return self._mirror.bucket.put(f"{place}/{MANIFEST}", content)


class ArtifactStore:
    """All artifacts of all campaigns, under one folder; with `bucket`, an S3 URL, those that are there."""

    def __init__(self, folder: Path, bucket: str | None = None) -> None:
        self.folder = folder
        self.mirror = _mirror(folder, bucket) if bucket else None
        self._opened = time.monotonic()

    @classmethod
    def at(cls, where: Settings) -> "ArtifactStore":
        """The store of an installation."""
        return cls(where.store, where.bucket)

    def draft(self, key: RoundKey, asset: str, *, parents: dict[str, str], config: dict[str, Any]) -> Draft:
        """Starts, or finds again, the artifact that these inputs lead to."""
        self._look(key.campaign)
        return Draft(self._root(key, asset), key, asset, parents, config, self.mirror)

    def has(self, key: RoundKey, asset: str) -> bool:
        self._look(key.campaign)
        return (self._root(key, asset) / MANIFEST).is_file()

    def open(self, key: RoundKey, asset: str, *, verify: bool = True) -> Artifact:
        """The artifact, its files checked against the manifest's hashes unless `verify` is false.

        Raises:
            SelfimpError: it is missing, unreadable, of another format, or altered since it was written.
        """
        manifest = self.manifest(key, asset)
        artifact = Artifact(manifest, self._root(key, asset), self.mirror)
        if verify:
            artifact.check(manifest.files)
        return artifact

    def manifest(self, key: RoundKey, asset: str) -> Manifest:
        """What the store says of an artifact; its files are not looked at.

        Raises:
            SelfimpError: it is missing, unreadable, of another format, or that of another artifact.
        """
        self._look(key.campaign)
        where = f"{key} {asset}"
        path = self._root(key, asset) / MANIFEST
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise SelfimpError(
                "there is no such artifact in the store",
                where=where,
                fix=f"materialize {asset} of {key} first (store: {self.folder})",
            ) from None
        except OSError as error:
            raise SelfimpError(
                f"unreadable manifest: {error.strerror}", where=str(path), fix=_again(key, asset)
            ) from error
        try:
            written = _Versioned.model_validate_json(content)
            if written.format != FORMAT:
                raise _other_format(written, key, asset)
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            raise SelfimpError(
                f"unreadable manifest: {_first_problem(error)}", where=str(path), fix=_again(key, asset)
            ) from error
        if (manifest.round, manifest.asset) != (str(key), asset):
            raise SelfimpError(
                f"the manifest is that of {manifest.asset} of {manifest.round}",
                where=str(path),
                fix="move the folder back to where it was copied from",
            )
        return manifest

    def rounds(self, campaign: str | None = None) -> Iterator[RoundKey]:
        """Rounds that have a folder, in order; folders that are named like no round are none.

        With a bucket, rounds that have an artifact there.
        """
        if self.mirror is not None:
            for name in [campaign] if campaign else self.mirror.campaigns():
                self._look(name)
        for folder in sorted(self.folder.glob(f"{campaign or '*'}/[0-9][0-9][0-9][0-9]")):
            key = RoundKey.match(f"{folder.parent.name}/{folder.name}")
            if key is not None and (self.mirror is None or next(folder.glob(f"*/{MANIFEST}"), None)):
                yield key

    def note(self, name: str) -> bytes | None:
        """What a small file beside the rounds says (`<campaign>/evolution/<0000>.json`); none without one."""
        self._look(name.partition("/")[0])
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def add_note(self, name: str, content: bytes) -> bool:
        """Writes one if there is none, and says whether this content is there now."""
        if self.mirror is not None:
            created = self.mirror.bucket.create(name, content)
            self.mirror.bring(name)
            return created
        path = self.folder / name
        if path.is_file():
            return path.read_bytes() == content
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
        return True

    def _look(self, campaign: str) -> None:
        if self.mirror is not None and re.fullmatch(CAMPAIGN_PATTERN, campaign):
            self.mirror.look(campaign, self._opened)

    def _root(self, key: RoundKey, asset: str) -> Path:
        return self.folder / f"{key}/{asset}"


def _mirror(folder: Path, bucket: str) -> "Mirror":
    try:
        from selfimp_dagster.mirror import mirror_of
    except ModuleNotFoundError as error:
        raise SelfimpError(
            f"the library for buckets is not installed ({error.name})",
            where=bucket,
            fix="install it: pip install 'selfimp-dagster[s3]'",
        ) from error
    return mirror_of(folder, bucket)


def _version(manifest: bytes) -> str | None:
    """The data version that a manifest says; none if it cannot be read."""
    try:
        return Manifest.model_validate_json(manifest).data_version
    except ValidationError:
        return None


def _again(key: RoundKey, asset: str) -> str:
    return f"materialize {asset} of {key} again, or copy its folder back from a backup"


def _other_format(written: _Versioned, key: RoundKey, asset: str) -> SelfimpError:
    made_by = f"selfimp_dagster {written.code_version}, which made it"
    return SelfimpError(
        f"the artifact has format {written.format}, this version reads {FORMAT}",
        where=f"{key} {asset}",
        fix=f"install {made_by}, or a newer one"
        if written.format > FORMAT
        else f"materialize {asset} of {key} again, or read it with {made_by}",
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


def write_parquet(path: Path, table: pl.DataFrame) -> None:
    """Writes a table, whole or not at all.

    Raises:
        SelfimpError: the disk is full or refuses.
    """
    buffer = BytesIO()  # polars has an error of its own for a full disk
    table.write_parquet(buffer)
    write_file(path, buffer.getvalue())


def write_file(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        SelfimpError: the disk is full or refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise write_error(error, path) from error


def _holds(file: Path, sha256: str) -> bool:
    return file.is_file() and file_sha256(file) == sha256


def write_error(error: Exception, path: Path) -> SelfimpError:
    """A failed write, in words; what was complete before it is untouched."""
    return SelfimpError(
        f"could not write: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        fix="free some disk space or fix the permissions, then run the step again: nothing complete was lost",
    )
