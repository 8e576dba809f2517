"""What a report says is what the artifacts say; what cannot be read is named, and hides nothing else."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from events import materialization
from home import RUINOUS, Home, file_skill
from typer.main import get_command
from typer.testing import CliRunner

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.cli import app
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.dimensions import MEASURES
from selfimp_dagster.lifecycle.evaluation.report import read_dimensions, read_report
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.oversight import record
from selfimp_dagster.lifecycle.oversight_log import log_path
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.records import EVALUATIONS, SELECTION
from selfimp_dagster.report import figures, refresh_reports, render, report_path, words, write_report
from selfimp_dagster.report.data import (
    IN_BRIEF,
    IN_FULL,
    NEWEST,
    CorpusFacts,
    Detail,
    EvaluationFacts,
    Flips,
    RoundReport,
    SelectionFacts,
    gather,
)
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)
_TYPED = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x07"


class _Page(HTMLParser):
    """The text of a page, and the tags it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self._style = False
        self.feed(page)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.parts.append(data)


def _evaluation(r: RoundReport) -> EvaluationFacts:
    assert isinstance(r.evaluation, EvaluationFacts), r.evaluation
    return r.evaluation


def _in_force(home: Home) -> str:
    """The arm of the second round that goes on."""
    return "candidate" if read_report(home.store, _SECOND).verdict.promoted else "incumbent"


def _page(home: Home, tmp_path: Path) -> _Page:
    return _Page(write_report(home.store, "tiny", tmp_path / "report.html").read_text())


def test_the_numbers_are_those_of_the_artifacts(two_rounds: Home, tmp_path: Path) -> None:
    text = _page(two_rounds, tmp_path).text
    for row in read_ledger(two_rounds.store, "tiny").iter_rows(named=True):
        for suite in ("anchor", "fresh", "guard"):
            assert f"{row[f'incumbent_{suite}']:.3f} → {row[f'candidate_{suite}']:.3f}" in text
        assert row["verdict"] in text
        assert row["decision"] in text
    for key in (_FIRST, _SECOND):
        for score in read_report(two_rounds.store, key).skills:
            assert f"{score.accuracy:.3f} {score.low:.3f} to {score.high:.3f}" in text
        for stage in ("generated_corpus", "checkpoint", "eval_report"):
            assert two_rounds.store.open(key, stage, verify=False).data_version[:16] in text
        for step in two_rounds.store.open(key, "selected_subset").facts["funnel"]:
            assert f"{step['kept']:,} of {step['reached']:,}" in text
    first, last = (read_report(two_rounds.store, key) for key in (_FIRST, _SECOND))
    before, after = first.score("anchor", "incumbent"), last.score("anchor", _in_force(two_rounds))
    assert before is not None
    assert after is not None
    assert f"went from {before.accuracy:.3f} (95 % interval {before.low:.3f} to {before.high:.3f})" in text
    assert f"to {after.accuracy:.3f} ({after.low:.3f} to {after.high:.3f})" in text
    tokens = sum(report.summary.tokens for report in (first, last))
    assert f"{tokens:,}" in text
    policy, _ = read_policy(two_rounds.store, _FIRST)
    assert policy.policy_hash in text
    assert first.fingerprint in text


def test_the_gain_is_measured_on_the_items_that_both_answered(two_rounds: Home) -> None:
    change = next(c for c in gather(two_rounds.store, "tiny").changes if c.suite == "anchor")
    first, last = (
        two_rounds.store.open(key, "eval_report").table("evaluations", EVALUATIONS)
        for key in (_FIRST, _SECOND)
    )
    scores = [
        dict(rows.filter(suite="anchor", arm=arm).select("item_id", "score").iter_rows())
        for rows, arm in ((first, "incumbent"), (last, _in_force(two_rounds)))
    ]
    assert scores[0].keys() == scores[1].keys()
    mean = sum(scores[1][item] - scores[0][item] for item in scores[0]) / len(scores[0])
    assert change.gain == pytest.approx(mean)
    assert change.n == len(scores[0])
    assert change.low is not None
    assert change.high is not None
    assert change.low < mean <= change.high


def test_answers_that_changed_stand_side_by_side(two_rounds: Home, tmp_path: Path) -> None:
    text = _page(two_rounds, tmp_path).text
    flips = _evaluation(gather(two_rounds.store, "tiny").rounds[0]).flips
    verdict = read_report(two_rounds.store, _FIRST).verdict
    assert flips.to_right >= verdict.wins > 0
    assert len(flips.now_right) > 1
    for flip in flips.now_right:
        assert flip.id in text
        assert (flip.before_score, flip.after_score) == (0, 1)
        assert flip.after.startswith("7")
    assert {flip.suite for flip in flips.now_right} == {"anchor", "fresh"}


def test_copies_are_shown_with_what_they_copy(two_rounds: Home) -> None:
    for r in gather(two_rounds.store, "tiny").rounds:
        assert isinstance(r.selection, SelectionFacts)
        selection = two_rounds.store.open(r.key, "selected_subset").table("selection", SELECTION)
        for found in r.selection.copies:
            dropped = selection.filter((selection["step"] == found.step) & ~selection["kept"])
            assert found.dropped == dropped.height
            assert len(found.examples) == min(4, dropped.height)
            for example in found.examples:
                evidence = json.loads(dropped.filter(sample_id=example.sample_id)["evidence"][0])
                assert example.other_id == evidence["duplicate_of"]
                if found.step == "exact_duplicates":
                    assert example.other == f"{example.prompt}\n{example.response}"
    assert sum(found.dropped for found in r.selection.copies) > 0


def test_what_a_directive_asked_for_stands_beside_what_was_drawn(home: Home) -> None:
    hopeless = [f'{{"question": "guess {number}", "answer": "8"}}\n' for number in range(100, 1000)]
    home.write_campaign(
        skills={"learning": {"weight": 3.0}, "guessing": file_skill("guess.jsonl")},
        pools={"train": 40},
    )
    (home.campaigns / "guess.jsonl").write_text("".join(hopeless))
    home.run(str(_FIRST))
    with home.instance() as instance:
        assert home.materialize(instance, str(_SECOND), "incumbent_policy", "generated_corpus").success
    policy, _ = read_policy(home.store, _SECOND)
    (directive,) = policy.directives
    report = gather(home.store, "tiny")
    corpus = report.rounds[1].corpus
    assert isinstance(corpus, CorpusFacts)
    shares = {share.skill: share for share in corpus.shares}
    assert {skill: share.asked for skill, share in shares.items()} == directive.weights
    assert shares["learning"].mix == 0.75
    for share in shares.values():
        assert share.tasks == pytest.approx(directive.weights[share.skill], abs=1 / 40)
    text = _Page(render(report)).text
    assert directive.signal in text
    assert all(f"{weight:.3f}" in text for weight in directive.weights.values())


def test_the_dimensions_are_drawn_and_listed_with_what_they_mean(two_rounds: Home, tmp_path: Path) -> None:
    assert list(words.MEASURES) == list(MEASURES)
    for dimension, drawn in figures.DRAWN.items():
        assert {MEASURES[measure].dimension for measure in drawn} == {dimension}
    text = _page(two_rounds, tmp_path).text
    for row in read_dimensions(two_rounds.store, _SECOND).iter_rows(named=True):
        assert words.MEASURES[row["measure"]] in text
        assert f"{row['value']:.3g}" in text
        if row["low"] is not None:
            assert f"({row['low']:.3g} to {row['high']:.3g})" in text


def test_what_a_model_says_is_text_and_never_markup(two_rounds: Home) -> None:
    report = gather(two_rounds.store, "tiny")
    first, evaluation = report.rounds[0], _evaluation(report.rounds[0])
    flip = replace(evaluation.flips.now_right[0], before=_TYPED, prompt=_TYPED, expected=_TYPED)
    flips = replace(evaluation.flips, now_right=(flip,))
    rounds = (replace(first, evaluation=replace(evaluation, flips=flips)), *report.rounds[1:])
    assert isinstance(report.campaign, Campaign)
    told = report.campaign.model_copy(update={"description": _TYPED, "instruction": _TYPED})
    page = _Page(render(replace(report, rounds=rounds, campaign=told)))
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "form")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 5  # three of the flip, two of the campaign


def test_what_would_be_unseen_is_written_out(finished: Home) -> None:
    evaluations = finished.store.open(_FIRST, "eval_report").table("evaluations", EVALUATIONS)
    _rewrite(finished, evaluations.with_columns(response=pl.lit(_TYPED)))
    shown = _evaluation(gather(finished.store, "tiny").rounds[0]).flips.now_right[0].before
    assert shown == "<script>alert(1)</script><img src=x onerror=alert(2)>\\u202e\\u0007"


def _rewrite(home: Home, evaluations: pl.DataFrame) -> None:
    """Puts other evaluations into the first round's report, with a manifest that fits them."""
    artifact = home.store.open(_FIRST, "eval_report")
    draft = home.store.draft(_FIRST, "eval_report", parents=artifact.manifest.parents, config={})
    draft.write_table("evaluations", evaluations, EVALUATIONS)
    for name in set(artifact.manifest.files) - {"evaluations.parquet"}:
        shutil.copyfile(artifact.folder / name, draft.folder / name)
    draft.commit(facts=artifact.facts, measurements=artifact.measurements)


def test_long_texts_are_cut_and_say_how_much(finished: Home) -> None:
    evaluations = finished.store.open(_FIRST, "eval_report").table("evaluations", EVALUATIONS)
    _rewrite(finished, evaluations.with_columns(response=pl.lit("x" * (IN_FULL.characters + 1001))))
    flip = _evaluation(gather(finished.store, "tiny").rounds[0]).flips.now_right[0]
    assert flip.after == "x" * IN_FULL.characters + "… (1,001 more characters)"


@pytest.mark.parametrize(
    ("stage", "file", "part"),
    [
        ("generated_corpus", "samples.parquet", "corpus"),
        ("selected_subset", "selection.parquet", "selection"),
        ("checkpoint", "training_curve.parquet", "training"),
        ("refined_outputs", "refinements.parquet", "refinement"),
        ("eval_report", "evaluations.parquet", "report"),
        ("incumbent_policy", "policy.json", "start"),
    ],
)
def test_an_altered_artifact_is_named_and_the_rest_is_shown(
    finished: Home, tmp_path: Path, stage: str, file: str, part: str
) -> None:
    verdicts = read_ledger(finished.store, "tiny")["verdict"]
    path = finished.store.open(_SECOND, stage).folder / file
    path.write_bytes(path.read_bytes() + b" ")
    missing = getattr(gather(finished.store, "tiny").rounds[1], part)
    assert missing.what == f"the file {file} is not what was written (hash mismatch)"
    text = _page(finished, tmp_path).text
    assert f"tiny/0001 {stage}: the file {file} is not what was written (hash mismatch)" in text
    assert f"materialize {stage} of tiny/0001 again" in text
    assert verdicts[0] in text


def test_a_record_of_another_version_is_named(finished: Home, tmp_path: Path) -> None:
    policy, artifact = read_policy(finished.store, _SECOND)
    draft = finished.store.draft(_SECOND, "incumbent_policy", parents=artifact.manifest.parents, config={})
    draft.write_json("policy", policy.model_dump(mode="json") | {"mood": "cheerful"})
    draft.commit(facts=artifact.facts, measurements={})
    told = "tiny/0001 incumbent_policy: it was written by another version of selfimp_dagster"
    assert told in _page(finished, tmp_path).text


def test_weights_that_were_deleted_to_free_space_hide_nothing(finished: Home) -> None:
    for key in (_FIRST, _SECOND):
        (finished.store.open(key, "checkpoint").folder / "model" / "model.safetensors").unlink()
    page = render(gather(finished.store, "tiny"))
    assert "Not shown" not in page


def test_a_round_that_is_not_finished_is_told_as_far_as_it_is(home: Home, tmp_path: Path) -> None:
    with home.instance() as instance:
        stages = ("incumbent_policy", "generated_corpus", "selected_subset")
        assert home.materialize(instance, str(_FIRST), *stages).success
    text = _page(home, tmp_path).text
    assert "No round is finished yet" in text
    assert (
        "tiny/0000: has incumbent_policy, generated_corpus, selected_subset; "
        "still to make: checkpoint, refined_outputs, eval_report." in text
    )
    assert "Samples, selection, training" in text
    with home.instance() as instance:
        assert home.materialize(instance, str(_FIRST)).success
    home_text = _page(home, tmp_path).text
    assert "1 round finished: 1 promoted, 0 rejected." in home_text


def test_a_branch_says_what_it_changed_and_which_line_is_ahead(finished: Home, tmp_path: Path) -> None:
    branch = "tiny/0002"
    recipe = {"optimization": {"learning_rate": RUINOUS}}
    finished.run(branch, parent=str(_FIRST), recipe=recipe)
    report = gather(finished.store, "tiny")
    assert [r.changed for r in report.rounds] == ["", "", f"optimization.learning_rate={RUINOUS}"]
    assert report.line == (_FIRST, RoundKey.parse(branch))
    ledger = read_ledger(finished.store, "tiny").filter("champion")["round"].to_list()
    assert ledger == [str(report.champion.key) if report.champion else None]
    text = _page(finished, tmp_path).text
    assert f"Changed in the recipe: optimization.learning_rate={RUINOUS}" in text
    assert "★ champion" in text


def test_what_people_said_is_told_with_who_and_why(home: Home, tmp_path: Path) -> None:
    home.write_campaign(approval={"before": ["promotion"]})
    home.run(str(_FIRST))
    waits = gather(home.store, "tiny").rounds[0]
    assert (waits.status, waits.in_force) == ("waiting", "incumbent")
    text = _page(home, tmp_path).text
    assert "0 promoted, 0 rejected, 1 waiting for a person." in text
    assert "Waits for a person to approve or refuse the promotion of tiny/0000" in text
    state = home.store.folder / "state.html"
    before = write_report(home.store, "tiny", state).read_text()
    reason = "read the flips <b>twice</b>"
    record(home.store, home.campaigns, "approve", "tiny", round_=_FIRST, who="Ann", reason=reason)
    record(home.store, home.campaigns, "pause", "tiny", who="Bob", reason="the machine is needed")
    assert gather(home.store, "tiny").rounds[0].status == "promoted"
    text = _page(home, tmp_path).text
    assert "1 promoted, 0 rejected." in text
    assert f"Ann approve promotion of tiny/0000 {reason}" in text
    assert "Bob pause tiny the machine is needed" in text
    assert "Paused" in text
    head = before[: before.index("<title>")]
    assert head not in write_report(home.store, "tiny", state).read_text(), "the ledger writes it again"


def test_a_log_that_was_altered_is_named(home: Home, tmp_path: Path) -> None:
    home.run(str(_FIRST))
    record(home.store, home.campaigns, "pause", "tiny", who="Bob", reason="the machine is needed")
    path = log_path(home.store, "tiny")
    path.write_text(path.read_text().replace("Bob", "Eve"))
    text = _page(home, tmp_path).text
    assert f"Not shown: the interventions. {path}" in text
    assert "1 round finished: 1 promoted" in text


def test_the_same_artifacts_give_the_same_page(two_rounds: Home, tmp_path: Path) -> None:
    one, other = (write_report(two_rounds.store, "tiny", tmp_path / name) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_the_ledger_writes_reports_and_links_them(two_rounds: Home) -> None:
    path = report_path(two_rounds.store, "tiny")
    assert "2 rounds finished" in path.read_text()
    with two_rounds.instance() as instance:
        metadata = materialization(instance, "round_ledger", None).metadata
    assert metadata["reports"].value == "* [tiny](/reports/tiny.html)"
    assert metadata["reports_folder"].value == str(path.parent)
    assert metadata["reports_not_written"].value == {}


def test_a_report_is_written_again_when_an_artifact_changed(finished: Home) -> None:
    path = report_path(finished.store, "tiny")
    written = path.stat().st_mtime_ns
    assert refresh_reports(finished.store) == ({"tiny": path}, {})
    assert path.stat().st_mtime_ns == written
    artifact = finished.store.open(_SECOND, "eval_report")
    manifest = artifact.folder.parent / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    refresh_reports(finished.store)
    assert path.stat().st_mtime_ns > written


def test_a_report_that_fails_is_told_and_the_ledger_stands(finished: Home) -> None:
    report_path(finished.store, "tiny").unlink()
    reports = report_path(finished.store, "tiny").parent
    reports.rmdir()
    reports.write_text("in the way")
    with finished.instance() as instance:
        assert finished.materialize(instance, str(_SECOND), "round_ledger").success
        metadata = materialization(instance, "round_ledger", None).metadata
        (told,) = metadata["reports_not_written"].value.values()
        assert "could not write" in told
        assert metadata["dagster/row_count"].value == 2


def test_a_campaign_without_rounds_is_refused_with_those_there_are(two_rounds: Home) -> None:
    for name in ("nothing", "../tiny", ""):
        with pytest.raises(SelfimpError) as caught:
            write_report(two_rounds.store, name)
        assert caught.value.what == "the store has no round of this campaign"
        assert caught.value.fix == "name one of: tiny"


def test_the_command_prints_where_the_report_is(
    two_rounds: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in two_rounds.environment.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "a folder that is new" / "tiny.html"
    result = CliRunner().invoke(app, ["report", "tiny", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(out)
    assert "2 rounds finished" in out.read_text()


def test_every_command_of_the_page_exists(two_rounds: Home, tmp_path: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    named = re.findall(r"(?:^|>)selfimp (\w+) ", render(gather(two_rounds.store, "tiny")), re.MULTILINE)
    assert {"run", "compare", "trace", "report"} <= set(named) <= set(commands)


def test_two_hundred_rounds_of_long_answers_are_a_file_of_a_few_megabytes(two_rounds: Home) -> None:
    report = gather(two_rounds.store, "tiny")
    old, new = (_talkative(report.rounds[0], detail) for detail in (IN_BRIEF, IN_FULL))
    rounds = [replace(old if n < 200 - NEWEST else new, key=RoundKey("tiny", n)) for n in range(200)]
    page = render(replace(report, rounds=tuple(rounds)))
    assert page.count('<details class="round"') == 200
    assert page.count('<details class="round" open>') == 1
    assert len(page.encode()) < 5_000_000


def _talkative(r: RoundReport, detail: Detail) -> RoundReport:
    """The round with as many and as long examples as its detail allows."""
    evaluation, text = _evaluation(r), "x" * detail.characters
    (flip, *_) = (*evaluation.flips.now_right, *evaluation.flips.now_wrong)
    long = (replace(flip, prompt=text, before=text, after=text),) * detail.examples
    return replace(r, detail=detail, evaluation=replace(evaluation, flips=Flips(9, 9, long, long)))
