"""What every stage is handed: where artifacts live, how engines are had, where progress goes."""

from dataclasses import dataclass
from pathlib import Path

from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.progress import Progress
from selfimp_dagster.store import ArtifactStore


@dataclass(frozen=True)
class Workbench:
    """The effects that stages may have. `models` caches base models, `campaigns` holds the YAML files."""

    store: ArtifactStore
    engines: EnginePool
    models: Path
    campaigns: Path
    progress: Progress
