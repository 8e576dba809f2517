"""The resources of the pipeline, and the workbench that they make up for one step."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from selfimp_dagster.engines.choice import EngineName
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.lifecycle.optimization.stage import ASSET as CHECKPOINT
from selfimp_dagster.lifecycle.optimization.stage import train_checkpoint
from selfimp_dagster.lifecycle.oversight import KillSwitch, OverseenProgress, admit
from selfimp_dagster.lifecycle.spending import BudgetSwitch
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.loading import DtypeName
from selfimp_dagster.progress import LogProgress, shown_or
from selfimp_dagster.resources.training import TrainingResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import Artifact, ArtifactStore


class EnginesResource(dg.ConfigurableResource):
    """Inference engines; each set of weights is loaded once per process and kept."""

    dtype: DtypeName = Field(default="auto", description="Numerics of sampling: auto, float32 or bfloat16.")
    device: str = Field(default="auto", description="auto, or a torch device such as cpu or cuda:0.")
    batch_size: int = Field(default=256, ge=1, description="Sequences decoded together.")
    engine: EngineName = Field(
        default="auto",
        description="auto, transformers or vllm; auto takes vLLM where it and a GPU are.",
    )
    memory_fraction: float = Field(
        default=0.4,
        gt=0,
        le=1,
        description="Share of a GPU's memory that each of at most two vLLMs takes.",
    )

    _pool: EnginePool | None = PrivateAttr(default=None)

    @property
    def pool(self) -> EnginePool:
        if self._pool is None:
            self._pool = EnginePool(
                dtype=self.dtype,
                device=self.device,
                batch_size=self.batch_size,
                engine=self.engine,
                memory_fraction=self.memory_fraction,
            )
        return self._pool


class WorkbenchResource(dg.ConfigurableResource):
    """Where campaigns, artifacts and base models live, and the engines."""

    campaigns: str = Field(description="Folder of the campaign files.")
    store: str = Field(description="Folder of the artifact store, or of this machine's copy of the bucket.")
    bucket: str = Field(default="", description="S3 URL under which the artifacts are; empty: in the folder.")
    models: str = Field(description="Folder that caches base models.")
    engines: EnginesResource
    training: TrainingResource = Field(default=TrainingResource(), description="Who trains a candidate.")

    @classmethod
    def at(cls, where: Settings) -> "WorkbenchResource":
        """The workbench of an installation."""
        return cls(
            campaigns=str(where.campaigns),
            store=str(where.store),
            bucket=where.bucket or "",
            models=str(where.models),
            engines=EnginesResource(engine=where.engine),
            training=TrainingResource(
                processes=where.training_processes, accelerate=str(where.accelerate or "")
            ),
        )

    @property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(Path(self.store), self.bucket or None)

    @property
    def campaigns_folder(self) -> Path:
        return Path(self.campaigns)

    def open(self, context: dg.AssetExecutionContext) -> Workbench:
        """What the library's stage functions need; progress goes to the step's log unless shown elsewhere.

        Raises:
            SelfimpError: people have not let this stage begin.
        """
        key, stage = RoundKey.parse(context.partition_key), context.asset_key.to_user_string()
        admit(self.artifacts, key, stage)
        bench = self.bench(context)
        overseen = OverseenProgress(
            bench.progress,
            KillSwitch(self.artifacts, key.campaign),
            BudgetSwitch(self.artifacts, self.campaigns_folder, key, stage),
        )
        return replace(bench, progress=overseen)

    def trained(self, context: dg.AssetExecutionContext, overrides: Mapping[str, Any]) -> Artifact:
        """The candidate of the round, trained in this process or by several together.

        Raises:
            SelfimpError: as `train_checkpoint`; or a process died.
        """
        bench, key = self.open(context), RoundKey.parse(context.partition_key)
        if self.training.processes == 1:
            return train_checkpoint(bench, key, overrides)
        bench.engines.give_back()
        where = {name: getattr(self, name) for name in ("store", "bucket", "models", "campaigns")}
        self.training.together(context, {"round": str(key), "overrides": dict(overrides), **where})
        return bench.store.open(key, CHECKPOINT)

    def bench(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Workbench:
        """The same for a check that runs a model, which begins only after a stage that was let."""
        return Workbench(
            store=self.artifacts,
            engines=self.engines.pool,
            models=Path(self.models),
            campaigns=self.campaigns_folder,
            progress=shown_or(LogProgress(context.log.info)),
        )
