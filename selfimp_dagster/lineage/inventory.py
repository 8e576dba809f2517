"""What a store holds and what it lacks: every manifest read once, and a gap for whatever should be there."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_WEIGHTS = "model/"  # the folder that may be deleted to free space
_AT_A_TIME = 8  # files that are fetched


@dataclass(frozen=True)
class Gap:
    """Something that the store lacks or that cannot be read, and what mends it.

    `asset` is none where the whole round is meant. A round that was begun and not finished is a gap as well,
    but no damage.
    """

    round: str
    asset: str | None
    what: str
    fix: str
    damage: bool

    def __str__(self) -> str:
        return f"{self.round}{f' {self.asset}' if self.asset else ''}: {self.what} -> {self.fix}"


@dataclass(frozen=True)
class Inventory:
    """The artifacts that can be read, by round and asset in the order of rounds and stages, and the gaps.

    `missing` are files of these artifacts that are not there.
    """

    artifacts: Mapping[RoundKey, Mapping[str, Artifact]]
    gaps: tuple[Gap, ...]
    missing: frozenset[Path]

    @property
    def damage(self) -> tuple[Gap, ...]:
        """The gaps but for rounds that are merely not finished."""
        return tuple(gap for gap in self.gaps if gap.damage)

    def facts(self, asset: str) -> Iterator[tuple[RoundKey, Mapping[str, Any]]]:
        """The facts of every readable artifact of an asset, round by round."""
        for key, held in self.artifacts.items():
            if asset in held:
                yield key, held[asset].facts

    def of(self, rounds: Collection[str]) -> "Inventory":
        """The same, but for some rounds alone."""
        artifacts = {key: held for key, held in self.artifacts.items() if str(key) in rounds}
        folders = {artifact.folder for held in artifacts.values() for artifact in held.values()}
        missing = frozenset(path for path in self.missing if path.parent in folders)
        return Inventory(artifacts, tuple(gap for gap in self.gaps if gap.round in rounds), missing)

    def files(self, asset: str, name: str) -> list[Path]:
        """Where that file of the asset is, for every round that has it."""
        paths = (
            held[asset].folder / name
            for held in self.artifacts.values()
            if asset in held and name in held[asset].manifest.files
        )
        return [path for path in paths if path not in self.missing]


def take_inventory(store: ArtifactStore) -> Inventory:
    """Reads every manifest of the store and looks whether the files that it names are there.

    Contents are not hashed: `ArtifactStore.open` does that for the artifact that it opens. The weights of a
    checkpoint may be missing, since they may be deleted to free space. From a bucket, all but the files in
    folders of artifacts is fetched that is not here yet.
    """
    artifacts: dict[RoundKey, dict[str, Artifact]] = {}
    gaps: list[Gap] = []
    missing: set[Path] = set()
    for key in store.rounds():
        held: dict[str, Artifact] = {}
        absent: list[str] = []
        for asset in STAGES:
            if not store.has(key, asset):
                absent.append(asset)
                continue
            try:
                artifact = store.open(key, asset, verify=False)
            except SelfimpError as error:
                gaps.append(Gap(str(key), asset, error.what, error.fix, damage=True))
                continue
            held[asset] = artifact
        for artifact, refused in zip(held.values(), _fetched(store, held.values()), strict=True):
            gaps += [_gap(artifact, problem) for problem in refused.values()]
            gone = [name for name in _missing_files(store, artifact) if name not in refused]
            if gone:
                gaps.append(_lost_files(artifact, gone))
            missing |= {artifact.folder / name for name in (*gone, *refused)}
        gaps += _absences(key, held, absent)
        artifacts[key] = held
    gaps += _gone_rounds(artifacts)
    return Inventory(artifacts, tuple(gaps), frozenset(missing))


def verified(inventory: Inventory) -> Inventory:
    """The inventory without the tables that are not what was written: reads and hashes every one of them.

    Only worth its time once a query has failed: nothing but damage from outside alters a table.
    """
    gaps: list[Gap] = []
    altered: set[Path] = set()
    for held in inventory.artifacts.values():
        for artifact in held.values():
            for name in sorted(artifact.manifest.files):
                path = artifact.folder / name
                if name.endswith(".parquet") and path not in inventory.missing:
                    try:
                        artifact.check([name])
                    except SelfimpError as error:
                        gaps.append(_gap(artifact, error.what))
                        altered.add(path)
    return Inventory(inventory.artifacts, (*inventory.gaps, *gaps), inventory.missing | altered)


def _fetched(store: ArtifactStore, artifacts: Collection[Artifact]) -> list[dict[str, str]]:
    """Brings the tables of artifacts here from a bucket; of each those that cannot be had, and why."""
    if store.mirror is None:
        return [{} for _ in artifacts]
    found = []
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for artifact in artifacts:
            names = [name for name in artifact.manifest.files if "/" not in name]
            problems = zip(names, pool.map(artifact.fetch, names), strict=True)
            found.append({name: problem for name, problem in problems if problem is not None})
    return found


def _missing_files(store: ArtifactStore, artifact: Artifact) -> list[str]:
    try:
        there = set(os.listdir(artifact.folder))
    except OSError:
        there = set()
    absent = (name for name in sorted(artifact.manifest.files) if name not in there)
    return [name for name in absent if _needed(store, artifact, name)]


def _needed(store: ArtifactStore, artifact: Artifact, name: str) -> bool:
    """Whether the absence of a file that is not directly in the artifact's folder is a gap."""
    if "/" not in name:
        return True
    if store.mirror is not None or name.startswith(_WEIGHTS):
        return False
    return not (artifact.folder / name).is_file()


def _lost_files(artifact: Artifact, names: list[str]) -> Gap:
    if len(names) == 1:
        return _gap(artifact, f"the file {names[0]} is gone")
    return _gap(artifact, f"the files {', '.join(names)} are gone")


def _gap(artifact: Artifact, what: str) -> Gap:
    manifest = artifact.manifest
    return Gap(manifest.round, manifest.asset, what, _mended_by(manifest.round, manifest.asset), damage=True)


def _mended_by(round_: str, asset: str) -> str:
    return f"copy {round_}/{asset} back from a backup, or materialize {asset} of {round_} again"


def _absences(key: RoundKey, held: Mapping[str, Artifact], absent: list[str]) -> Iterator[Gap]:
    """Artifacts that later ones of the round were made from, and what the round has not come to yet."""
    built_on = {parent for artifact in held.values() for parent in artifact.manifest.parents}
    lost = [asset for asset in absent if asset in built_on]
    for asset in lost:
        users = [name for name, artifact in held.items() if asset in artifact.manifest.parents]
        yield Gap(
            str(key),
            asset,
            f"its manifest is gone, and {', '.join(users)} {_agree(users, 'was', 'were')} made from it",
            _mended_by(str(key), asset),
            damage=True,
        )
    open_ = [asset for asset in absent if asset not in lost]
    if open_:
        yield Gap(
            str(key),
            None,
            f"not finished: {', '.join(open_)} {_agree(open_, 'is', 'are')} still to be made",
            f"`selfimp run {key.campaign}` goes on with a campaign's latest round; "
            "materialize what an earlier one lacks in the UI, or delete its folder",
            damage=False,
        )


def _gone_rounds(artifacts: Mapping[RoundKey, Mapping[str, Artifact]]) -> Iterator[Gap]:
    """Rounds without a folder that later rounds started from."""
    children: dict[str, list[str]] = defaultdict(list)
    for key, held in artifacts.items():
        start = held.get("incumbent_policy")
        for parent in {name.rpartition("/")[0] for name in start.manifest.parents} if start else ():
            if RoundKey.parse(parent) not in artifacts:
                children[parent].append(str(key))
    for parent, rounds in sorted(children.items()):
        yield Gap(
            parent,
            None,
            f"its folder is gone, and {_listed(rounds)} started from it",
            f"copy {parent} back from a backup; until then what happened in it is unknown",
            damage=True,
        )


def _agree(names: list[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several


def _listed(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
