"""Runs a recorded round again beside the store and says, artifact by artifact, whether it is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.acquisition.stage import generate_corpus
from selfimp_dagster.lifecycle.evaluation.stage import evaluate_round
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.optimization.stage import train_checkpoint
from selfimp_dagster.lifecycle.oversight import read_standing
from selfimp_dagster.lifecycle.policy import Beginning, Policy, read_policy, start_from
from selfimp_dagster.lifecycle.refinement.stage import refine_outputs
from selfimp_dagster.lifecycle.selection.stage import select_subset
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.lineage.differences import Difference, differences, value_differences
from selfimp_dagster.models.hashing import POLICY_FILES, file_sha256
from selfimp_dagster.progress import Progress
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore, Manifest, write_error

_POLICY = ("policy.json",)
_MODEL = tuple(f"model/{pattern}" for pattern in POLICY_FILES)
_JUDGED = ("tasks.parquet", "samples.parquet", "rewards.parquet")
_MEASURED = {
    "incumbent_policy": _POLICY,
    "generated_corpus": (*_JUDGED, "judge_probe.parquet"),
    "selected_subset": ("selection.parquet",),
    "checkpoint": _MODEL,
    "refined_outputs": _JUDGED,
}
_REWARDED = ("incumbent_policy", "generated_corpus", "checkpoint")
_READ: dict[str, dict[str, tuple[str, ...]]] = {
    "incumbent_policy": {},
    "generated_corpus": {"incumbent_policy": _POLICY},
    "selected_subset": {
        "incumbent_policy": _POLICY,
        "generated_corpus": _JUDGED,
    },
    "checkpoint": {
        "incumbent_policy": _POLICY,
        "generated_corpus": _JUDGED,
        "selected_subset": ("subset.parquet", "spare.parquet"),
    },
    "refined_outputs": {
        "incumbent_policy": _POLICY,
        "generated_corpus": ("tasks.parquet",),
        "checkpoint": _MODEL,
    },
    "eval_report": {"incumbent_policy": _POLICY, "checkpoint": _MODEL},
    "eval_report/dimensions.parquet": _MEASURED,
    "eval_report/rewarded.parquet": {name: _MEASURED[name] for name in _REWARDED},
    "eval_report/monitors.parquet": _MEASURED,
    "eval_report/report.json": _MEASURED,
}
"""The files of its round that each artifact is made from, and a file of one where that takes others: a
difference in one of them explains a difference in what is made from it."""

_READ_OF_THE_LINE = ("incumbent_policy", "selected_subset", "eval_report")
"""What a round reads of each of its ancestors; of its parent, and of the round of its weights, more."""

_ADJUSTABLE = ("generated_corpus", "checkpoint", "refined_outputs")
"""The artifacts whose parameters a run may replace by its own."""

State = Literal["identical", "differs", "not recorded", "not made"]


@dataclass(frozen=True)
class Outcome:
    """One artifact, as recorded and as made again.

    `follows_from` are the artifacts before it with differing files that its first difference was made from:
    where there are any, that difference says nothing against its own stage. `note` says why it could not be
    made, or what its record lacks.
    """

    asset: str
    state: State
    differences: tuple[Difference, ...] = ()
    follows_from: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """A round run again. `conditions` are what was not as it was: machine, packages, code, engine."""

    round: str
    outcomes: tuple[Outcome, ...]
    conditions: tuple[Difference, ...]
    conditions_recorded: bool

    @property
    def identical(self) -> bool:
        """Whether everything that was recorded came out the same."""
        return all(outcome.state in ("identical", "not recorded") for outcome in self.outcomes)

    @property
    def sentence(self) -> str:
        """The result in words."""
        by_state: dict[State, list[str]] = {}
        for outcome in self.outcomes:
            by_state.setdefault(outcome.state, []).append(outcome.asset)
        recorded = sum(outcome.state != "not recorded" for outcome in self.outcomes)
        missing = by_state.get("not recorded", [])
        unfinished = f" The round has no {', '.join(missing)}." if missing else ""
        if self.identical:
            return (
                f"{self.round} is reproduced: {recorded} of {recorded} artifacts are identical.{unfinished}"
            )
        first = next(o for o in self.outcomes if o.state in ("differs", "not made"))
        if first.state == "not made":
            how = f"{first.asset} could not be made again ({first.note})"
        else:
            difference = first.differences[0]
            how = (
                f"it first differs in {first.asset}, {difference.file}, {difference.place}: "
                f"recorded {difference.recorded}, now {difference.now}"
            )
        same = f"{len(by_state.get('identical', []))} of {recorded} artifacts are identical."
        return f"{self.round} is not reproduced: {how}. {same}{unfinished}"


def reproduce(
    store: ArtifactStore, key: RoundKey, *, campaigns: Path, models: Path, scratch: Path, progress: Progress
) -> Reproduction:
    """Makes the artifacts of a round again, under `scratch`, from what the store recorded of it.

    The round starts from the parent, the campaign, the parameters and the numerics that its artifacts
    record, not from the campaign file of today; task files must be what they were, and another base model
    is a difference in incumbent_policy. The store is only read: the rounds that this one builds on are
    linked into `scratch`, where a store of the same layout is left, as the folder `artifacts`.

    Raises:
        SelfimpError: there is no such round, an artifact of it or of its line was altered or is gone, or a
            task file is not the one that the round was started with.
    """
    if not store.has(key, STAGES[0]):
        raise SelfimpError(
            "the store does not say what this round started from: it has no incumbent_policy",
            where=str(key),
            fix=f"`selfimp status` lists the finished rounds (store: {store.folder})",
        )
    policy, start = read_policy(store, key)
    recorded = {asset: store.open(key, asset, verify=False) for asset in STAGES if store.has(key, asset)}
    for asset, artifact in recorded.items():
        _refuse_altered(key, asset, artifact)
    _require_line(store, policy, start)
    _require_task_files(campaigns, start)
    bench = Workbench(_linked(store, policy, scratch), _engines(recorded), models, campaigns, progress)
    made: dict[str, Artifact] = {}
    failure = ""
    for asset in STAGES[: 1 + STAGES.index(list(recorded)[-1])]:
        try:
            made[asset] = _make(asset, bench, policy, recorded.get(asset))
        except SelfimpError as error:
            failure = f"{error.where}: {error.what}"
            break
    outcomes: list[Outcome] = []
    for asset in STAGES:
        outcomes.append(_outcome(asset, recorded, made, outcomes, failure))
    return Reproduction(
        round=str(key),
        outcomes=tuple(outcomes),
        conditions=_conditions(recorded, made),
        conditions_recorded=all(artifact.manifest.environment for artifact in recorded.values()),
    )


def _make(asset: str, bench: Workbench, policy: Policy, recorded: Artifact | None) -> Artifact:
    """One stage, with the parameters that its artifact records in place of the campaign's."""
    key = RoundKey.parse(policy.round)
    config: dict[str, Any] = (recorded and recorded.manifest.config) or {}
    match asset:
        case "incumbent_policy":
            return start_from(bench, key, Beginning.of(policy))
        case "generated_corpus":
            size = {"tasks": config["tasks"]} if config else {}
            return generate_corpus(bench, key, {**_parameters(config, "acquisition"), **size})
        case "selected_subset":
            return select_subset(bench, key)
        case "checkpoint":
            return train_checkpoint(bench, key, _overrides(config, "optimization"))
        case "refined_outputs":
            return refine_outputs(bench, key, _overrides(config, "refinement"))
        case _:
            return evaluate_round(bench, key)


def _parameters(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The parameters of a recorded choice of method."""
    return {name: value for name, value in config.get(stage, {}).items() if name != "method"}


def _overrides(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """What was set by hand; where that was not recorded yet, all parameters, since nothing was directed."""
    overrides: dict[str, Any] = config.get("overrides", _parameters(config, stage))
    return overrides


def _outcome(
    asset: str,
    recorded: Mapping[str, Artifact],
    made: Mapping[str, Artifact],
    before: list[Outcome],
    failure: str,
) -> Outcome:
    if asset not in recorded:
        return Outcome(asset, "not recorded")
    if asset not in made:
        first = all(outcome.state != "not made" for outcome in before)
        return Outcome(asset, "not made", note=failure if first else "a stage before it was not made")
    gone = [name for name in recorded[asset].manifest.files if not (recorded[asset].folder / name).is_file()]
    notes = [f"{len(gone)} recorded files are gone, {gone[0]} among them"] if gone else []
    found = tuple(differences(recorded[asset], made[asset]))
    if not found:
        return Outcome(asset, "identical", note="; ".join(notes))
    notes += _other_parameters(recorded[asset].manifest, made[asset].manifest)
    notes += [
        f"recorded from another {name} than the store has now"
        for name, version in recorded[asset].manifest.parents.items()
        if name in recorded and recorded[name].data_version != version
    ]
    read = _READ.get(f"{asset}/{found[0].file}", _READ[asset])
    follows = tuple(o.asset for o in before if _differs_in(o, read.get(o.asset, ())))
    return Outcome(asset, "differs", found, follows, "; ".join(notes))


def _other_parameters(recorded: Manifest, made: Manifest) -> list[str]:
    if recorded.config_hash == made.config_hash:
        return []
    if recorded.config is not None:
        place, old, new = next(value_differences(recorded.config, made.config))
        return [f"made with other parameters: {place} recorded {old}, now {new}"]
    lacking = "it was made with parameters that are not the campaign's and not recorded"
    return [lacking] if recorded.asset in _ADJUSTABLE else []


def _differs_in(outcome: Outcome, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(found.file, pattern) for found in outcome.differences for pattern in patterns)


def _conditions(recorded: Mapping[str, Artifact], made: Mapping[str, Artifact]) -> tuple[Difference, ...]:
    """What both know of how an artifact was made and say differently, each once."""
    found: dict[str, Difference] = {}
    for asset in (asset for asset in STAGES if asset in recorded and asset in made):
        old, new = _made_with(recorded[asset]), _made_with(made[asset])
        for name in old:
            if name in new and old[name] != new[name]:
                found.setdefault(name, Difference("conditions", name, old[name], new[name]))
    return tuple(found.values())


def _made_with(artifact: Artifact) -> dict[str, str]:
    engine = {name: str(value) for name, value in artifact.facts.get("engine", {}).items()}
    manifest = artifact.manifest
    return {"version": manifest.code_version, **engine, **(manifest.environment or {})}


def _engines(recorded: Mapping[str, Artifact]) -> EnginePool:
    """The recorded engine in its numerics: another machine, or another installation, may prefer others."""
    for artifact in recorded.values():
        if engine := artifact.facts.get("engine"):
            return EnginePool(engine=engine["engine"], dtype=engine["dtype"], batch_size=engine["batch_size"])
    return EnginePool()


def _linked(store: ArtifactStore, policy: Policy, scratch: Path) -> ArtifactStore:
    """A store under `scratch` with links to the ancestors of the round, and what people said of them."""
    folder, campaign = scratch / "artifacts", policy.campaign.name
    try:
        (folder / campaign).mkdir(parents=True)
        for ancestor in policy.ancestors:
            target = (store.folder / ancestor).resolve()
            if target.exists():
                (folder / ancestor).symlink_to(target, target_is_directory=True)
        if log := oversight_log.content(store, campaign):
            (folder / campaign / oversight_log.LOG).write_bytes(log)
    except OSError as error:
        raise write_error(error, folder) from error
    return ArtifactStore(folder)


def _refuse_altered(key: RoundKey, asset: str, artifact: Artifact) -> None:
    """A recorded file may be gone, since its hash remains; one that was altered speaks for nothing."""
    for name, sha256 in artifact.manifest.files.items():
        artifact.fetch(name)
        file = artifact.folder / name
        if file.is_file() and file_sha256(file) != sha256:
            raise SelfimpError(
                f"the file {name} is not what was written (hash mismatch): there is nothing to compare with",
                where=f"{key} {asset}",
                fix="restore the file from a backup, or delete it to compare with its recorded hash",
            )


def _require_line(store: ArtifactStore, policy: Policy, start: Artifact) -> None:
    """Refuses a round whose ancestors are not, whole, what it was started from.

    What people said of them is in the log that all rounds share: an answer is given once and stays.
    """
    read_standing(store, policy.campaign.name)
    needed = [(ancestor, asset) for ancestor in policy.ancestors for asset in _READ_OF_THE_LINE]
    if policy.parent is not None:
        needed.append((policy.parent, "refined_outputs"))
        if policy.campaign.recipe.curriculum is not None:
            needed.append((policy.parent, "generated_corpus"))
        if policy.campaign.recipe.companions:
            needed.append((policy.parent, "checkpoint"))
    for ancestor in policy.ancestors:
        key = RoundKey.parse(ancestor)
        corpus = "generated_corpus"
        if store.has(key, corpus) and store.open(key, corpus, verify=False).facts.get("written"):
            needed.append((ancestor, corpus))
    if policy.weights_round is not None:
        needed += [(policy.weights_round, asset) for asset in ("checkpoint", "refined_outputs")]
    for round_, asset in needed:
        try:
            found = store.open(RoundKey.parse(round_), asset)
        except SelfimpError as error:
            raise SelfimpError(
                f"{error.what}, and {policy.round} is built on it",
                where=error.where,
                fix="restore it from a backup: without it the round cannot be run again",
            ) from error
        if start.manifest.parents.get(f"{round_}/{asset}", found.data_version) != found.data_version:
            raise SelfimpError(
                f"it was made again since {policy.round} started from it",
                where=f"{round_} {asset}",
                fix="restore the artifact of then from a backup: the one of now would lead elsewhere",
            )


def _require_task_files(campaigns: Path, start: Artifact) -> None:
    for path, sha256 in start.facts["task_files"].items():
        file = campaigns / path
        found = file_sha256(file) if file.is_file() else None
        if found != sha256:
            what = "is gone" if found is None else f"is another one now (sha256 {found[:16]})"
            raise SelfimpError(
                f"the task file {path} {what}",
                where=f"{start.manifest.round} incumbent_policy: task_files",
                fix=f"put the file with the sha256 {sha256[:16]} back at {file}",
            )
