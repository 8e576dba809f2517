"""A round that waits for a person."""

from pathlib import Path

import pytest
from home import Home


@pytest.fixture(scope="session")
def promoted_if_approved(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """An installation with a round whose promotion waits for a person: to read, not to change."""
    home = Home(tmp_path_factory.mktemp("waiting") / "installation", tiny_model)
    home.write_campaign(approval={"before": ["promotion"]})
    home.run("tiny/0000")
    return home


@pytest.fixture
def waiting(promoted_if_approved: Home, tmp_path: Path) -> Home:
    """The same in a copy of its own: to decide on."""
    return promoted_if_approved.copy_to(tmp_path / "waiting")
