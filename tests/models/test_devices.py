"""The device that an engine is given, and what is said where there is no such one."""

from pathlib import Path

import pytest
import torch

from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.loading import pick_device


@pytest.mark.parametrize(("seen", "device"), [(0, "cpu"), (2, "cuda")])
def test_auto_is_a_gpu_where_there_is_one(seen: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert pick_device("auto") == device


@pytest.mark.parametrize(
    ("seen", "device", "told"),
    [(0, "cuda", "no CUDA devices"), (0, "cuda:0", "no CUDA devices"), (1, "cuda:1", "1 CUDA device")],
)
def test_a_gpu_that_is_not_there_is_refused(
    seen: int, device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    with pytest.raises(SelfimpError, match=f"{device} is asked for, and torch sees {told}"):
        pick_device(device)
    assert pick_device("cpu") == "cpu"


def test_an_engine_says_so_before_it_loads_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SelfimpError, match="torch sees no CUDA devices"):
        EnginePool(device="cuda").engine(tmp_path / "no such model", "0" * 64)
