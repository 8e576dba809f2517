"""How deep, and how many, tasks that models wrote a corpus may have."""

import polars as pl
import pytest

from selfimp_dagster.lifecycle.acquisition.admission import Synthetic, admit, most_written
from selfimp_dagster.lifecycle.acquisition.corpus import Corpus
from selfimp_dagster.lifecycle.acquisition.proposals import (
    Known,
    Origin,
    Proposal,
    Rules,
    acquired_task,
    decide,
    depth_of,
)
from selfimp_dagster.records import SAMPLES, TASKS, frame


def _corpus(*depths: int) -> Corpus:
    """A task of each depth, named by its place, with two samples."""
    tasks = [
        {
            **acquired_task(source="made", skill="s", prompt=f"task {n}", parents=[], depth=d),
            "task_id": str(n),
        }
        for n, d in enumerate(depths)
    ]
    samples = [
        {**dict.fromkeys(SAMPLES), "sample_id": f"{n}-{again}", "task_id": str(n)}
        for n in range(len(depths))
        for again in range(2)
    ]
    return Corpus(frame(tasks, TASKS), frame(samples, SAMPLES))


def _fates(corpus: Corpus) -> dict[str, str]:
    return dict(corpus.proposals.select("prompt", "reason").iter_rows())


def test_what_is_too_deep_is_set_aside_with_its_samples_and_the_reason() -> None:
    admitted = admit(_corpus(0, 1, 2, 3), Synthetic(most_depth=1, least_real=0))
    assert admitted.tasks["task_id"].to_list() == ["0", "1"]
    assert admitted.samples["sample_id"].to_list() == ["0-0", "0-1", "1-0", "1-1"]
    assert _fates(admitted) == {"task 2": "depth", "task 3": "depth"}
    assert admitted.proposals["detail"].unique().to_list() == ["at most 1"]
    assert admit(_corpus(0, 9), Synthetic(most_depth=None, least_real=0)).tasks.height == 2


def test_the_deepest_give_way_until_the_real_ones_have_their_share() -> None:
    # Three real tasks at a floor of 0.6 leave room for two others: the two of the least depth.
    admitted = admit(_corpus(0, 3, 0, 1, 2, 0, 2), Synthetic(least_real=0.6))
    assert admitted.tasks["task_id"].to_list() == ["0", "2", "3", "4", "5"]
    real = (admitted.tasks["generation_depth"] == 0).mean()
    assert real == 0.6
    assert _fates(admitted) == {"task 1": "share", "task 6": "share"}


@pytest.mark.parametrize(
    ("real", "floor", "written", "room"),
    [
        (4, 0.5, 9, 4),
        (9, 0.9, 9, 1),
        (8, 0.9, 9, 0),
        (0, 0.5, 9, 0),
        (0, 0, 9, 9),
        (5, 1, 9, 0),
        (3, 0.3, 9, 7),
    ],
)
def test_room_beside_real_tasks(real: int, floor: float, written: int, room: int) -> None:
    assert most_written(real, floor, written) == room
    if floor and room:
        assert real / (real + room) >= floor > real / (real + room + 1)


def test_a_task_that_was_proposed_keeps_its_one_row() -> None:
    decided = decide([Proposal("made", "s", "What is asked here?", claimed="7")], Rules(), Known([]))
    assert decided.proposals["task_id"].to_list() == decided.tasks["task_id"].to_list()
    admitted = admit(Corpus(tasks=decided.tasks, proposals=decided.proposals), Synthetic(least_real=1))
    row = admitted.proposals.row(0, named=True)
    assert (admitted.tasks.height, admitted.proposals.height) == (0, 1)
    assert (row["task_id"], row["reason"], row["answer"]) == (None, "share", "7")


def test_depth_counts_the_models_between_a_task_and_real_data() -> None:
    assert depth_of([]) == 1
    assert depth_of([Origin("seed"), Origin("seed")]) == 1
    assert depth_of([Origin("seed"), Origin("written", 2)]) == 3
    by_rule = Proposal("made", "s", "p", origins=(Origin("document", 0),), written=False)
    assert by_rule.depth == 0
    deep = Proposal("made", "s", "Which word is it?", origins=(Origin("t", 2),))
    decided = decide([deep], Rules(most_depth=2), Known([]))
    assert decided.tasks.is_empty()
    assert decided.proposals.select("reason", "generation_depth", "parent_ids").row(0) == ("depth", 3, ["t"])
    assert decide([deep], Rules(most_depth=3), Known([])).tasks["generation_depth"].to_list() == [3]


def test_a_corpus_without_written_tasks_stays_as_it_is() -> None:
    corpus = _corpus(0, 0)
    admitted = admit(corpus, Synthetic())
    assert admitted.tasks.equals(corpus.tasks)
    assert admitted.samples.equals(corpus.samples)
    assert admitted.proposals.select(pl.len()).item() == 0
