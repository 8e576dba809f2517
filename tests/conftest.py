"""The tiny model, and installations that run campaigns on it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from home import Home
from hypothesis import settings
from tiny_model import build_tiny_model

if TYPE_CHECKING:
    from storage import Storage

# A tiny model gains nothing from a second torch thread, and on a busy machine loses most of its time to it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _environment_stays_as_it_is() -> Iterator[None]:
    """Opening an instance sets DAGSTER_HOME; nothing a test does may outlive the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", "")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path) -> Home:
    """A new installation with the tiny campaign."""
    made = Home(tmp_path / "installation", tiny_model)
    made.write_campaign()
    return made


@pytest.fixture(scope="session")
def two_rounds(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """An installation in which two rounds of the tiny campaign are finished: to read, not to change."""
    made = Home(tmp_path_factory.mktemp("two-rounds") / "installation", tiny_model)
    made.write_campaign()
    made.run("tiny/0000", "tiny/0001")
    return made


@pytest.fixture
def finished(tmp_path: Path, two_rounds: Home) -> Home:
    """The same two rounds in a copy of its own: to go on from."""
    return two_rounds.copy_to(tmp_path / "finished")


@pytest.fixture(scope="module")
def s3_server() -> Iterator["Storage"]:
    """An S3 server; tests that do something to it use `storage`."""
    from storage import ENVIRONMENT, Storage

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        server = Storage()
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield server
        server.stop()


@pytest.fixture
def storage(s3_server: "Storage") -> Iterator["Storage"]:
    """An S3 server that is there; what a test does to it ends with the test."""
    yield s3_server
    s3_server.come_back()
    s3_server.be_busy(0)
    s3_server.lose_answers(0)
