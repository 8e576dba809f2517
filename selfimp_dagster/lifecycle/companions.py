"""Companions: the weights that a checkpoint carries beside the candidate's, and who asks them.

An update that trains one (`reward_model`, `verifier`) leaves a folder `companions/<name>` in the checkpoint
of its round: a model in safetensors format, the pairs that it was trained and tried on, and its record. The
next round of the line asks it as a reward, and trains its own on those pairs and new ones.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.evaluation.statistics import Interval, wilson
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.policy import Policy

FOLDER = "companions"
RECORD, PAIRS_FILE = "companion.json", "pairs.parquet"

REWARD_MODEL, VERIFIER = "reward_model", "verifier"
NAMES = frozenset({REWARD_MODEL, VERIFIER})
"""The companions there can be: updates that train one and the rewards that ask it have its name."""

_AT_A_TIME = 128  # responses that are scored between two signs of life

Response = tuple[tuple[Message, ...], str]
"""What was asked, and a response to it."""


class CompanionRecord(BaseModel):
    """What is known of a companion: of `held_out` pairs it put the better response first in `right`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    round: str
    learnt_from: str  # the reward that says which response of a pair is better
    pairs: int  # that it was trained on
    held_out: int
    right: int

    @property
    def accuracy(self) -> Interval:
        """The 95 % interval of the share of pairs that it puts in the right order."""
        return wilson(self.right, self.held_out)


class Companion(Protocol):
    """A companion that can be asked: the larger its score, the better it takes the response to be."""

    record: CompanionRecord

    def scores(self, responses: Sequence[Response], label: str) -> list[float]: ...


class _Opened:
    def __init__(
        self,
        record: CompanionRecord,
        read: Callable[[Sequence[Response], Callable[[int], None]], list[float]],
        bench: Workbench,
        count: Callable[[int], None],
    ) -> None:
        self.record, self._read, self._bench, self._count = record, read, bench, count

    def scores(self, responses: Sequence[Response], label: str) -> list[float]:
        found: list[float] = []
        with self._bench.progress.stage(label, total=len(responses), unit="responses") as bar:

            def on_tokens(read: int) -> None:
                self._count(read)
                bar.advance(0)

            for start in range(0, len(responses), _AT_A_TIME):
                part = responses[start : start + _AT_A_TIME]
                found += self._read(part, on_tokens)
                bar.advance(len(part))
        return found


class Companions:
    """Opens the companions of a checkpoint, each once, and counts the tokens that they read."""

    def __init__(self, bench: Workbench, checkpoint: Artifact | None) -> None:
        self._bench, self._checkpoint = bench, checkpoint
        self._opened: dict[str, Companion] = {}
        self.tokens = 0

    def find(self, name: str) -> Companion | None:
        """The companion of that name; none where the checkpoint has none, or there is no checkpoint yet."""
        folder = companions_of(self._checkpoint)
        if folder is None or not (folder / name / RECORD).is_file():
            return None
        if name not in self._opened:
            self._opened[name] = self._open(folder / name)
        return self._opened[name]

    def _count(self, tokens: int) -> None:
        self.tokens += tokens

    def _open(self, folder: Path) -> Companion:
        record = CompanionRecord.model_validate_json((folder / RECORD).read_text())
        if record.name == REWARD_MODEL:
            from selfimp_dagster.engines.reward_model import RewardModel

            return _Opened(record, RewardModel(folder).scores, self._bench, self._count)
        engine = self._bench.engines.engine(folder, policy_hash(folder))

        def likelihoods(responses: Sequence[Response], on_tokens: Callable[[int], None]) -> list[float]:
            return [sum(tokens) for tokens in engine.logprobs(responses, on_tokens)]

        return _Opened(record, likelihoods, self._bench, self._count)


def companions_of(checkpoint: Artifact | None) -> Path | None:
    """The folder of a checkpoint's companions; none if it has none."""
    if checkpoint is None or not (checkpoint.folder / FOLDER).is_dir():
        return None
    return checkpoint.folder / FOLDER


def parent_checkpoint(store: ArtifactStore, policy: "Policy") -> Artifact | None:
    """The checkpoint of the round before, where the recipe trains or asks companions; else none.

    A candidate that was not promoted leaves its companions all the same: they were trained on the corpus of
    its round, and are tried on pairs held out of it.
    """
    if policy.parent is None or not policy.campaign.recipe.companions:
        return None
    return store.open(RoundKey.parse(policy.parent), "checkpoint")
