"""Where things are, from the environment: the same for the definitions, the CLI and the tests."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from selfimp_dagster.engines.choice import EngineName
from selfimp_dagster.errors import SelfimpError


@dataclass(frozen=True)
class Settings:
    """Folders and engine of an installation. `home` is also DAGSTER_HOME: one instance for UI and CLI."""

    home: Path
    campaigns: Path
    engine: EngineName = "auto"

    @property
    def store(self) -> Path:
        return self.home / "artifacts"

    @property
    def models(self) -> Path:
        return self.home / "models"


def settings() -> Settings:
    """SELFIMP_HOME (`.selfimp` by default), SELFIMP_CAMPAIGNS (`campaigns`), SELFIMP_ENGINE (`auto`).

    Raises:
        SelfimpError: there is no engine of that name.
    """
    engine = os.environ.get("SELFIMP_ENGINE", "auto")
    if engine not in get_args(EngineName):
        raise SelfimpError(
            f"there is no engine called {engine!r}",
            where="SELFIMP_ENGINE",
            fix=f"write one of {', '.join(get_args(EngineName))}",
        )
    return Settings(
        home=Path(os.environ.get("SELFIMP_HOME", ".selfimp")).resolve(),
        campaigns=Path(os.environ.get("SELFIMP_CAMPAIGNS", "campaigns")).resolve(),
        engine=cast(EngineName, engine),
    )
