"""What the stage lends methods beside the candidate: other weights to hold against it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from selfimp_dagster.engines.base import ContrastiveSampling, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import Sample
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model


@dataclass
class OtherWeights:
    """Samples with more than the candidate's weights; `tokens` counts what all of them read and drew.

    `candidate` is the folder of the candidate and its policy hash, `parts` where samples are kept.
    """

    bench: Workbench
    policy: Policy
    candidate: tuple[Path, str]
    parts: Path
    tokens: int = field(default=0, init=False)

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
        sampler = DurableSampler(
            self.bench.engines.contrastive(self.candidate, weights),
            self.candidate[1],
            self.policy.round,
            self.parts,
            self.bench.progress,
        )

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
