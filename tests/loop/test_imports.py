"""What importing costs, and which way the dependencies point: asked of fresh interpreters."""

import subprocess
import sys

import pytest

_HEAVY = ("torch", "transformers", "trl", "vllm", "peft", "datasets", "reasoning_gym")
_LIBRARY = (
    "campaign",
    "engines.openai_engine",
    "engines.pool",
    "engines.transformers_engine",
    "engines.vllm_engine",
    "environment",
    "errors",
    "lifecycle.acquisition.stage",
    "lifecycle.evaluation.stage",
    "lifecycle.judges",
    "lifecycle.ledger",
    "lifecycle.next_round",
    "lifecycle.optimization.stage",
    "lifecycle.refinement.stage",
    "lifecycle.selection.stage",
    "lineage.differences",
    "lineage.inventory",
    "lineage.reproduce",
    "lineage.round_tree",
    "lineage.row_index",
    "lineage.trace",
    "lineage.views",
    "models.source",
    "records",
    "registry",
    "report",
    "settings",
    "store",
    "tasks.pools",
    "tasks.verifiers",
)


def _imported_by(*modules: str) -> set[str]:
    """The top-level packages that are there after importing these modules and nothing else."""
    program = f"import {', '.join(modules)}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["definitions", "cli"])
def test_definitions_and_command_line_import_no_model_library(module: str) -> None:
    imported = _imported_by(f"selfimp_dagster.{module}")
    assert "selfimp_dagster" in imported
    assert imported.isdisjoint(_HEAVY)


def test_the_library_does_not_import_dagster() -> None:
    imported = _imported_by(*(f"selfimp_dagster.{module}" for module in _LIBRARY))
    assert "selfimp_dagster" in imported
    assert "dagster" not in imported
