"""An installation in a temporary folder: a campaign on the tiny model, its store, its Dagster instance."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from selfimp_dagster.definitions import build_definitions
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.partitions import ROUNDS
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import open_instance, run_round
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore

GENTLE = 2e-4
"""A learning rate that teaches `learn` in one round and leaves `keep` as it is."""

RUINOUS = 3e-3
"""A learning rate that makes the model answer 7 to everything."""


def file_skill(path: str) -> dict[str, str]:
    return {
        "suite": "file",
        "path": path,
        "prompt_column": "question",
        "answer_column": "answer",
        "verifier": "exact",
    }


def tiny_campaign(model: Path, name: str = "tiny") -> dict[str, Any]:
    """The campaign file as plain data."""
    return {
        "name": name,
        "model": str(model),
        "skills": {"learning": file_skill("learn.jsonl")},
        "guard": {"keeping": file_skill("keep.jsonl")},
        "pools": {"train": 48, "anchor": 60, "fresh": 40, "guard": 20},
        "recipe": {
            "acquisition": {
                "method": "policy_sampling",
                "samples_per_task": 4,
                "sampling": {"max_new_tokens": 4},
            },
            "selection": [
                {"method": "verified"},
                {"method": "decontamination"},
                {"method": "exact_duplicates"},
                {"method": "near_duplicates", "threshold": 1.0},
                {"method": "cap_per_task"},
            ],
            "optimization": {"method": "sft", "learning_rate": GENTLE, "epochs": 4, "batch_size": 8},
            "refinement": {"method": "self_consistency", "tasks": 8, "votes": 3, "gap": "ignored"},
        },
        "evaluation": {"max_new_tokens": 4},
        "promotion": {"minimum_gain": 0.2, "discordance": 0.3},
        "continuation": {"rounds": 3, "patience": 2},
    }


def write_tasks(folder: Path) -> None:
    """`learn 100` to `learn 999`, answered 7, and `keep 100` to `keep 199`, answered 3."""
    folder.mkdir(parents=True, exist_ok=True)
    for word, answer, numbers in (("learn", "7", range(100, 1000)), ("keep", "3", range(100, 200))):
        rows = [f'{{"question": "{word} {number}", "answer": "{answer}"}}\n' for number in numbers]
        (folder / f"{word}.jsonl").write_text("".join(rows))


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the changes in place, nested mappings field by field."""
    result = dict(values)
    for name, value in changes.items():
        inner = result.get(name)
        result[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def selfimp(where: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `selfimp` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "selfimp_dagster.cli", *arguments],
        env={**os.environ, **where, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@dataclass(frozen=True)
class Home:
    """An installation; `environment` is what a process needs to use it."""

    folder: Path
    model: Path
    bucket: str | None = None
    processes: int = 1  # that train together

    @property
    def campaigns(self) -> Path:
        return self.folder / "campaigns"

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.folder / "home",
            campaigns=self.campaigns,
            bucket=self.bucket,
            training_processes=self.processes,
        )

    @property
    def environment(self) -> dict[str, str]:
        where = {"SELFIMP_HOME": str(self.settings.home), "SELFIMP_CAMPAIGNS": str(self.campaigns)}
        return {**where, "SELFIMP_STORE": self.bucket} if self.bucket else where

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore.at(self.settings)

    @cached_property
    def workbench(self) -> WorkbenchResource:
        """What Dagster's steps, the sensor and the schedule are handed."""
        return WorkbenchResource.at(self.settings)

    @cached_property
    def definitions(self) -> dg.Definitions:
        return build_definitions(self.workbench)

    @cached_property
    def bench(self) -> Workbench:
        """What the library's stages are handed."""
        return Workbench(
            self.store, EnginePool(), self.settings.models, self.campaigns, LogProgress(lambda line: None)
        )

    def write_campaign(self, name: str = "tiny", **changes: Any) -> Path:
        """Writes the tiny campaign with these fields changed, and its task files."""
        write_tasks(self.campaigns)
        path = self.campaigns / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(tiny_campaign(self.model, name), changes)))
        return path

    def copy_to(self, folder: Path) -> "Home":
        shutil.copytree(self.folder, folder)
        return Home(folder, self.model)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with open_instance(self.settings.home) as instance:
            yield instance

    def run(self, *keys: str, parent: str | None = None, recipe: dict[str, Any] | None = None) -> None:
        """Runs rounds to their ends as `selfimp run` does."""
        with self.instance() as instance:
            for key in keys:
                run_round(
                    instance,
                    self.workbench,
                    RoundKey.parse(key),
                    RoundKey.parse(parent) if parent else None,
                    recipe,
                )

    def materialize(
        self,
        instance: dg.DagsterInstance,
        key: str,
        *assets: str,
        config: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Runs the round job, or some of its assets with their checks, as the UI does."""
        instance.add_dynamic_partitions(ROUNDS, [key])
        return self.definitions.resolve_job_def("round_job").execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
            instance=instance,
            partition_key=key,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(asset) for asset in assets] or None,
            tags=tags,
        )
