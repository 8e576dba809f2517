"""Where things are, from the environment: the same for the definitions, the CLI and the tests."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from selfimp_dagster.engines.choice import EngineName
from selfimp_dagster.errors import SelfimpError

_STORE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?")


@dataclass(frozen=True)
class Settings:
    """Folders and engine of an installation. `home` is also DAGSTER_HOME: one instance for UI and CLI.

    With `bucket`, an S3 URL, the artifacts are there, and `store` is this machine's copy of them.
    """

    home: Path
    campaigns: Path
    bucket: str | None = None
    engine: EngineName = "auto"
    training_processes: int = 1
    accelerate: Path | None = None

    @property
    def store(self) -> Path:
        if self.bucket is None:
            return self.home / "artifacts"
        return self.home.joinpath("buckets", *filter(None, parse_store(self.bucket)))

    @property
    def models(self) -> Path:
        return self.home / "models"


def settings() -> Settings:
    """SELFIMP_HOME (default `.selfimp`), SELFIMP_CAMPAIGNS (`campaigns`), SELFIMP_STORE, SELFIMP_ENGINE;
    of training SELFIMP_TRAINING_PROCESSES (1) and SELFIMP_ACCELERATE, a configuration file of accelerate.

    Raises:
        SelfimpError: there is no engine of that name, no such file, or the processes are no number above 0.
    """
    engine = os.environ.get("SELFIMP_ENGINE", "auto")
    if engine not in get_args(EngineName):
        raise SelfimpError(
            f"there is no engine called {engine!r}",
            where="SELFIMP_ENGINE",
            fix=f"write one of {', '.join(get_args(EngineName))}",
        )
    processes = os.environ.get("SELFIMP_TRAINING_PROCESSES", "1")
    if not processes.isdecimal() or int(processes) == 0:
        raise SelfimpError(
            f"{processes!r} is no number of processes",
            where="SELFIMP_TRAINING_PROCESSES",
            fix="write how many processes train together, one for each GPU; 1 trains in the step itself",
        )
    accelerate = os.environ.get("SELFIMP_ACCELERATE")
    if accelerate and not Path(accelerate).is_file():
        raise SelfimpError(
            f"there is no file {accelerate}",
            where="SELFIMP_ACCELERATE",
            fix="name a configuration file of accelerate, for example deploy/accelerate/fsdp.yaml",
        )
    return Settings(
        home=Path(os.environ.get("SELFIMP_HOME", ".selfimp")).resolve(),
        campaigns=Path(os.environ.get("SELFIMP_CAMPAIGNS", "campaigns")).resolve(),
        bucket=os.environ.get("SELFIMP_STORE") or None,
        engine=cast(EngineName, engine),
        training_processes=int(processes),
        accelerate=Path(accelerate).resolve() if accelerate else None,
    )


def parse_store(url: str) -> tuple[str, str]:
    """The bucket and the prefix (without slashes around it, or empty) of `s3://bucket/prefix`.

    Raises:
        SelfimpError: it is no such URL.
    """
    match = _STORE.fullmatch(url)
    if match is None:
        raise SelfimpError(
            "it is not s3://bucket or s3://bucket/prefix",
            where="SELFIMP_STORE",
            fix="write the bucket's name and a prefix of letters, digits, - and _; the endpoint goes into "
            "AWS_ENDPOINT_URL, credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return match[1], match[2].strip("/")
