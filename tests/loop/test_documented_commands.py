"""Every command of the documentation, run as it is written, on a campaign `arithmetic` of the tiny model.

The home has what the pages speak of: two rounds, and 0002, which branches from 0000. Each call has a copy
of it and a working folder of its own. What takes the place of a placeholder is in `_resolved`; what is not
run is in `_NOT_RUN`, with the reason. What needs PostgreSQL is run in tests/team.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from home import GENTLE, Home
from pages import PAGES, ROOT, Call, calls, programs
from typer.main import get_command

from selfimp_dagster.cli import app
from selfimp_dagster.lineage.views import ask

_COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
_PAGES = [page for page in PAGES if page.name != "tutorial.md"]  # which test_tutorial runs
_CALLS = list(
    {(call.environment, *call.words): call for call in calls("selfimp", _PAGES) if call.words}.values()
)
_WEBSERVER = next(call.words for call in calls("dagster-webserver") if call.words)

_RUN_ELSEWHERE = {
    "cp": "test_operating_page",
    "python3": "test_tutorial",
    "export": "the servers below have the variables",
    "dagster-daemon": "`selfimp ui` starts it",
}
_NOT_RUN = {
    "make": "installs from the network, then calls what tests call; test_documentation knows its targets",
    "python3 -m venv": "continuous integration makes an environment",
    ".": "the environment of the tests is active",
    "python": "a benchmark takes from minutes to hours",
}
"""What the pages show and these tests do not run, and why."""

_FIRST = {
    "resume ": "selfimp pause arithmetic --reason because",
    "SELFIMP_HOME=again ": "selfimp reproduce arithmetic/0001 --keep again",
    "SELFIMP_HOME=selfimp-backup ": "cp -a home selfimp-backup",
}
"""What the pages do before calls that begin so."""

_MAY_FAIL = {"doctor"}  # it says what this machine lacks


def _is_mention(call: Call) -> bool:
    """Whether the text names the command only: what it needs is not given."""
    required = any(parameter.required for parameter in _COMMANDS[call.words[0]].params)
    return required and len(call.words) == 1


@pytest.fixture(scope="module")
def _three_rounds(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    home = Home(tmp_path_factory.mktemp("arithmetic") / "installation", tiny_model)
    lake = {"environment": "frozen_lake", "episodes": 1, "turns": 2, "max_new_tokens": 4}
    home.write_campaign(
        "arithmetic",
        continuation={"rounds": 8, "patience": 5},
        evaluation={"max_new_tokens": 4, "environments": [lake]},
        evolution={"space": {"acquisition.samples_per_task": {"kind": "choice", "values": [2, 3]}}},
    )
    home.run("arithmetic/0000", "arithmetic/0001")
    home.run("arithmetic/0002", parent="arithmetic/0000", recipe={"acquisition": {"samples_per_task": 2}})
    return home


@pytest.fixture(scope="module")
def _one_waits(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """Round 0000 learnt nothing, and the promotion of 0001 waits for a person."""
    home = Home(tmp_path_factory.mktemp("waiting") / "installation", tiny_model)
    home.write_campaign(
        "arithmetic",
        recipe={"optimization": {"learning_rate": 1e-9}},
        approval={"before": ["promotion"]},
    )
    home.run("arithmetic/0000")
    home.run("arithmetic/0001", recipe={"optimization": {"learning_rate": GENTLE}})
    return home


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the installation, and the folder beside its campaigns as the working folder."""
    waits = getattr(request, "param", None) in ("approve", "refuse")
    made: Home = request.getfixturevalue("_one_waits" if waits else "_three_rounds")
    copy = made.copy_to(tmp_path / "copy")
    for name, value in copy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(copy.folder)
    return copy


def _resolved(home: Home, words: list[str]) -> list[str]:
    (sample,) = next(iter(ask(home.store, "SELECT min(sample_id) FROM subset").rows()))
    meant = {
        "NAME": "another" if words[0] == "init" else "arithmetic",
        "ROUND": "arithmetic/0001",
        "ID": str(sample),
        "WHY": "because",
        "FILE": "rows.parquet",
        "SELECT ...": "SELECT * FROM samples",
    }
    return [meant.get(word, word) for word in words]


def _run(words: list[str], captured: pytest.CaptureFixture[str]) -> None:
    status = app(words, standalone_mode=False)
    assert not status or words[0] in _MAY_FAIL, captured.readouterr().out
    assert captured.readouterr().out.strip()


@pytest.mark.parametrize(
    ("call", "home"),
    [
        (call, call.words[0])
        for call in _CALLS
        if call.words[0] != "ui" and "--postgres" not in call.words and not _is_mention(call)
    ],
    indirect=["home"],
    ids=str,
)
def test_a_documented_command_works(
    home: Home, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for start, first in _FIRST.items():
        if str(call).startswith(start):
            program, *words = first.split()
            _run(words, capfd) if program == "selfimp" else subprocess.run([program, *words], check=True)
    # A student of the lab trains for minutes; its pages need one that is there, not a good one.
    monkeypatch.setattr("selfimp_dagster.lab.run.make_student", lambda lab, tell: home.model)
    for assignment in call.environment.split():
        monkeypatch.setenv(*assignment.split("="))
    _run(_resolved(home, call.words), capfd)


def test_every_program_is_run_or_left_out_for_a_reason() -> None:
    run = {"selfimp", "dg", "dagster", "dagster-webserver"}
    assert programs() == run | set(_RUN_ELSEWHERE) | set(_NOT_RUN)


def test_every_command_is_run() -> None:
    assert {call.words[0] for call in _CALLS if not _is_mention(call)} == set(_COMMANDS)


@pytest.mark.parametrize("call", [*calls("dagster instance"), *calls("dagster asset")], ids=str)
def test_a_command_of_dagster_works(home: Home, call: Call) -> None:
    done = subprocess.run(
        [_beside_python("dagster"), "instance", *call.words],
        env={**os.environ, "DAGSTER_HOME": str(home.settings.home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).parent / program)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "selfimp_dagster.cli", "ui", "--port", "3000"],
        [_beside_python("dg"), "dev", "--port", "3000"],
        [_beside_python("dagster-webserver"), *_WEBSERVER],
    ],
    ids=["selfimp ui", "dg dev", "dagster-webserver"],
)
def test_a_documented_server_answers_and_stops(home: Home, command: list[str]) -> None:
    """On a free port instead of 3000."""
    port = str(_free_port())
    server = subprocess.Popen(
        [port if word == "3000" else word for word in command],
        env={**os.environ, "DAGSTER_HOME": str(home.settings.home)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Whoever runs the tests in the background has SIGINT ignored, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert _answers(server, f"http://127.0.0.1:{port}/server_info")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def _answers(server: "subprocess.Popen[bytes]", address: str) -> bool:
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False
