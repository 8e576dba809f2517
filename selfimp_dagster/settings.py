"""Where things are, from the environment: the same for the definitions, the CLI and the tests."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Folders of an installation. `home` is also DAGSTER_HOME: one instance for UI and CLI."""

    home: Path
    campaigns: Path

    @property
    def store(self) -> Path:
        return self.home / "artifacts"

    @property
    def models(self) -> Path:
        return self.home / "models"


def settings() -> Settings:
    """SELFIMP_HOME (default `.selfimp`) and SELFIMP_CAMPAIGNS (default `campaigns`)."""
    return Settings(
        home=Path(os.environ.get("SELFIMP_HOME", ".selfimp")).resolve(),
        campaigns=Path(os.environ.get("SELFIMP_CAMPAIGNS", "campaigns")).resolve(),
    )
