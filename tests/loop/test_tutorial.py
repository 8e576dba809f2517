"""docs/tutorial.md from its first command to its last, with a tiny model in the place of the real one.

That is all that is changed: the line `model:` of the campaign, and how many layers are trained.
"""

import random
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest
from pages import ROOT, fences
from tiny_model import build_tiny_model

from selfimp_dagster.cli import app
from selfimp_dagster.lineage.views import ask
from selfimp_dagster.store import ArtifactStore

_MODEL, _LAYERS = "model: embedded:smollm2-135m-instruct\n", "upper_layers: 15"  # half of the model
_NOT_RUN = {
    "make demo": "installs from the network and runs for minutes",
    ". .venv/bin/activate": "the environment of the tests is active already",
    "selfimp ui": "a server; test_documented_commands starts and stops it",
}
_SHOWN = {
    "selfimp validate digits": ("seen with 150 items", "is a valid campaign"),
    "selfimp run digits": ("digits/0000 anchor", "digits/0000 guard", "round status verdict decision"),
    'selfimp sql "SELECT generation*': ("generation kept samples", "SE True"),
    'selfimp sql "SELECT sample_id*': ("What is the largest digit of",),
    "selfimp trace *": (
        "expecting '",
        "reward answer (V) = 1: equal",
        "verified: kept",
        "trained on in the update sft with weight 1",
    ),
    "selfimp compare *": (
        "digits/0001 and digits/0002 part after digits/0000.",
        "recipe.acquisition.rationalized 1 0",
    ),
    "selfimp report digits": ("digits.html",),
    "selfimp reproduce digits/0000": ("digits/0000 is reproduced: 6 of 6 artifacts are identical.",),
    "selfimp oversight digits": ("Paused: Ann paused digits on", "The chain holds: 1 entries"),
}
"""What the page shows of a command's output and the command must print, whatever the model."""


def _lesson(chosen: random.Random) -> tuple[str, str]:
    """A question of the tutorial with its answer, which is right half of the time and else 0."""
    number = str(chosen.randrange(1000, 4000))
    question = f"What is the largest digit of {number}?\nAnswer with only the final answer."
    return question, max(number) if chosen.random() < 0.5 else "0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("digits-model"), lesson=_lesson)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a clone of the repository: with its campaigns, without results."""
    shutil.copytree(ROOT / "campaigns", tmp_path / "campaigns")
    for name in ("SELFIMP_HOME", "SELFIMP_CAMPAIGNS", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # so that what a command sets does not outlive this test
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tutorial_works(project: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = dict.fromkeys(_SHOWN, False)
    printed: dict[str, str] = {}
    for language, code in fences("docs/tutorial.md"):
        if language == "sh":
            printed = {command: _run(command, project, capfd) for command in _commands(code)}
        elif language == "yaml":
            assert _MODEL in code
            assert _LAYERS in code
            code = code.replace(_MODEL, f"model: {model}\n").replace(_LAYERS, "upper_layers: 1")
            (project / "campaigns/digits.yaml").write_text(code)
        else:
            for (pattern, phrases), (command, output) in product(_SHOWN.items(), printed.items()):
                if fnmatchcase(command, pattern):
                    shown[pattern] = True
                    for phrase in phrases:
                        assert phrase in _plain(code), (command, "the page")
                        assert phrase in _plain(output), (command, output)
    assert all(shown.values()), shown


def _commands(block: str) -> list[str]:
    """Calls of selfimp one by one; all else is one script."""
    lines = block.splitlines()
    return lines if all(line.startswith("selfimp ") for line in lines) else [block.rstrip("\n")]


def _run(command: str, project: Path, capfd: pytest.CaptureFixture[str]) -> str:
    if command in _NOT_RUN:
        return ""
    if not command.startswith("selfimp "):
        subprocess.run(["bash", "-euc", command], cwd=project, check=True)
        return ""
    words = shlex.split(command)[1:]
    if words[0] == "trace":
        store = ArtifactStore(project / ".selfimp" / "artifacts")
        words[1:] = next(iter(ask(store, "SELECT min(sample_id) FROM training").rows()))
    assert not app(words, standalone_mode=False)
    return capfd.readouterr().out


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)
