"""What the stage lends methods beside the candidate: weights to hold against it, and adapters on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from selfimp_dagster.engines.base import ContrastiveSampling, Generator, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import Sample
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights
from selfimp_dagster.lifecycle.refinement.refined import Adapted, Said
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.records import derive_seed

if TYPE_CHECKING:
    from selfimp_dagster.engines.adapted import AdaptedEngine


class _Adapted:
    """The candidate with an adapter: refined.Adapted."""

    def __init__(self, engine: "AdaptedEngine", lender: "OtherWeights") -> None:
        self._engine, self._lender = engine, lender
        self.tokens = self.steps = 0

    def read(self, tokens: int) -> None:
        self.tokens += tokens
        self._lender.tokens += tokens

    def reset(self) -> None:
        self._engine.reset()

    def step(self, responses: Sequence[Said], weights: Sequence[float]) -> None:
        self._engine.step(responses, weights)
        self.steps += 1

    @property
    def sample(self) -> Sample:
        return self._sample

    def _sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        sampler = self._lender.sampler(self._engine.engine, self._engine.policy_hash)
        drawn = sampler.sample(requests, sampling, generation=generation, label=label)
        self._lender.tokens += sampler.tokens
        return drawn


@dataclass
class OtherWeights:
    """Samples with more than the candidate's weights; `tokens` counts what all of them read and drew.

    `candidate` is the folder of the candidate and its policy hash, `parts` where samples are kept, `notes`
    what is recorded.
    """

    bench: Workbench
    policy: Policy
    candidate: tuple[Path, str]
    parts: Path
    notes: dict[str, Any]
    tokens: int = field(default=0, init=False)

    def count(self, tokens: int) -> None:
        """Adds tokens that the candidate read without answering."""
        self.tokens += tokens

    def against(
        self, amateur: Literal["base", "incumbent"], plausibility: float, temperature: float
    ) -> Sample | None:
        """Samples the candidate by its contrast to an amateur: refined.Against."""
        if amateur == "incumbent":
            folder = incumbent_weights(self.bench, self.policy)
        else:
            folder = resolve_model(self.policy.campaign.model, self.bench.models)
        weights = (folder, policy_hash(folder))
        if weights[1] == self.candidate[1]:
            return None
        sampler = self.sampler(self.bench.engines.contrastive(self.candidate, weights), self.candidate[1])

        def sample(
            requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
        ) -> pl.DataFrame:
            contrasted = ContrastiveSampling(
                **sampling.model_dump(),
                amateur=weights[1],
                plausibility=plausibility,
                amateur_temperature=temperature,
            )
            before = sampler.tokens
            drawn = sampler.sample(requests, contrasted, generation=generation, label=label)
            self.tokens += 2 * (sampler.tokens - before)
            return drawn

        return sample

    @contextmanager
    def adapted(self, *, rank: int, learning_rate: float) -> Iterator[Adapted]:
        """Lends an adapter on the candidate; records that its weights are what they were: refined.Adapt."""
        seed = derive_seed(self.policy.seed, "adapter")
        borrowed: list[_Adapted] = []
        with self.bench.engines.adapted(
            *self.candidate,
            rank=rank,
            learning_rate=learning_rate,
            seed=seed,
            on_tokens=lambda read: borrowed[0].read(read),
        ) as engine:
            borrowed.append(_Adapted(engine, self))
            yield borrowed[0]
        # Whoever comes here has the weights hashed before and after: another hash is an error.
        done = self.notes.setdefault("adapters", {"restored": 0, "steps": 0})
        done["restored"] += 1
        done["steps"] += borrowed[0].steps

    def sampler(self, engine: Generator, policy_hash: str) -> DurableSampler:
        """Draws with an engine whose samples are those of this policy."""
        return DurableSampler(engine, policy_hash, self.policy.round, self.parts, self.bench.progress)
