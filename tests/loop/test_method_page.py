"""docs/writing-a-method.md, followed to the letter in a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from home import Home
from pages import ROOT, fences

_PAGE = "docs/writing-a-method.md"
_METHOD, _IMPORT, _TEST = (code for language, code in fences(_PAGE) if language == "python")
((_CHAIN,), (_QUERY,)) = (
    [code for language, code in fences(_PAGE) if language == wanted] for wanted in ("yaml", "sql")
)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the page was followed: file, import, test."""
    project = tmp_path_factory.mktemp("extended")
    for folder in ("selfimp_dagster", "tests", "scripts"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", project)
    for folder in ("campaigns", "docs"):
        (project / folder).mkdir()
    selection = project / "selfimp_dagster/lifecycle/selection"
    (selection / "confidence.py").write_text(_METHOD)
    imports = (selection / "__init__.py").read_text()
    docstring, newline, rest = imports.partition("\n")
    (selection / "__init__.py").write_text(f"{docstring}{newline}\n{_IMPORT}{rest}")
    (project / "tests/lifecycle/selection/test_confidence_band.py").write_text(_TEST)
    return project


def _run(project: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "COLUMNS": "200", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_test_passes_and_it_has_the_style_of_the_project(extended: Path) -> None:
    out = _run(extended, "-m", "pytest", "-q", "tests/lifecycle/selection/test_confidence_band.py")
    assert "5 passed" in out
    files = ["selfimp_dagster/lifecycle/selection/confidence.py"]
    files += ["tests/lifecycle/selection/test_confidence_band.py"]
    _run(extended, "-m", "ruff", "check", *files)
    _run(extended, "-m", "ruff", "format", "--check", *files)


def test_the_generated_files_and_the_command_line_have_it(extended: Path) -> None:
    _run(extended, "scripts/generate.py")
    assert "### `confidence_band`" in (extended / "docs/methods.md").read_text()
    assert "confidence_band" in (extended / "campaigns/campaign.schema.json").read_text()
    listed = _run(extended, "-m", "selfimp_dagster.cli", "methods")
    assert (
        "confidence_band: Keeps responses whose mean log-probability per token lies in [low, high]." in listed
    )


def test_a_campaign_runs_with_it(extended: Path, home: Home) -> None:
    chain = yaml.safe_load(_CHAIN)["selection"]
    home.write_campaign(recipe={"selection": chain})
    _run(extended, "-m", "selfimp_dagster.cli", "run", "tiny", **home.environment)
    told = _run(extended, "-m", "selfimp_dagster.cli", "sql", _QUERY, **home.environment)
    assert "tiny/0000" in told
    assert "mean log-probability is between -1.5 and 0.0" in told
