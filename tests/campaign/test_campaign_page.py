"""The refusals that docs/campaign.md explains are those that `selfimp validate` gives."""

import re
import shutil
from pathlib import Path

import pytest
from pages import ROOT, fences

from selfimp_dagster.cli import app
from selfimp_dagster.errors import SelfimpError

_PAGE = (ROOT / "docs/campaign.md").read_text(encoding="utf-8")
_REFUSALS = re.findall(r"^\| `(.+?)` \|", _PAGE.split("## Reading refusals")[1].split("\n# ")[0], re.M)
_CAMPAIGN = next(code for language, code in fences("docs/tutorial.md") if language == "yaml")
_MISTAKES = {
    "Extra inputs are not permitted": ("samples_per_task", "sample_per_task"),
    "there is no selection method": ("method: verified", "method: verfied"),
    "evaluation items detect a gain of 0.2 with probability": (
        "anchor: 100, fresh: 50",
        "anchor: 20, fresh: 5",
    ),
    "overlapping pools: both yield the rows of": ("path: capitals.jsonl", "path: digits.jsonl"),
    "every selection removes duplicates and evaluation items exactly once": ("- method: decontamination", ""),
    "has no column": ("answer_column: answer", "answer_column: ansver"),
}


def test_every_refusal_of_the_page_is_made() -> None:
    assert list(_MISTAKES) == _REFUSALS


@pytest.mark.parametrize("refusal", _MISTAKES)
def test_the_mistake_is_refused_in_these_words(
    refusal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = _MISTAKES[refusal]
    assert right in _CAMPAIGN
    rows = [f'{{"question": "What is {n}?", "answer": "{n}"}}\n' for n in range(1000)]
    (tmp_path / "digits.jsonl").write_text("".join(rows))
    shutil.copy(ROOT / "campaigns/capitals.jsonl", tmp_path)
    (tmp_path / "digits.yaml").write_text(_CAMPAIGN.replace(right, wrong))
    monkeypatch.setenv("SELFIMP_CAMPAIGNS", str(tmp_path))
    with pytest.raises(SelfimpError, match=refusal):
        app(["validate", "digits"], standalone_mode=False)
