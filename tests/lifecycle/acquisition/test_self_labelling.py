"""From easy to hard: what is demonstrated, what is labelled, and that nobody looks at the answers beyond."""

from collections.abc import Collection, Mapping, Sequence

import polars as pl
import pytest
from test_policy_sampling import Asked

from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.self_labelling import SelfLabelling, reach, self_labelling
from selfimp_dagster.records import SAMPLES, TASKS
from selfimp_dagster.tasks.pools import draw_pool, tasks_frame
from selfimp_dagster.tasks.suites import StringsSource

_SOURCES = {"copying": StringsSource(operation="copy", shortest=2, longest=6)}
_LEVELS = {"copying": [2, 3, 4, 5, 6]}


def _corpus(
    updates: int,
    hidden: bool = False,
    directed: Mapping[str, Sequence[float]] | None = None,
    **parameters: float,
) -> tuple[Corpus, Asked]:
    policy = Asked()

    def draw(
        size: int, weights: Mapping[str, float], levels: Mapping[str, Collection[float]] | None = None
    ) -> pl.DataFrame:
        drawn = draw_pool("train", _SOURCES, size, 0, 0.4, None, weights, levels)  # type: ignore[arg-type]
        tasks = tasks_frame(drawn.tasks, "train")
        beyond = pl.col("difficulty") > 3
        return tasks.with_columns(answer=pl.when(beyond).then(None).otherwise("answer")) if hidden else tasks

    context = AcquisitionContext(
        draw=draw,
        levels=_LEVELS,
        directed=directed or {},
        updates=updates,
        sample=policy.sample,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        judge=policy.judge,
        offered=Corpus(TASKS.to_frame(), SAMPLES.to_frame()),
        skill_weights={"copying": 1.0},
        size=20,
        seed=0,
    )
    return self_labelling(context, SelfLabelling(demonstrated=3, votes=3, **parameters)), policy


def test_before_its_first_update_the_policy_is_only_shown() -> None:
    corpus, policy = _corpus(updates=0)
    assert policy.requests == []
    assert set(corpus.tasks["difficulty"]) <= {2, 3}
    answers = dict(corpus.tasks.select("task_id", "answer").iter_rows())
    shown = corpus.samples.select("task_id", "response", "generation", "policy_hash")
    assert all(answers[task] == response for task, response, *_ in shown.iter_rows())
    assert set(shown["generation"]) == {"D"}
    assert shown["policy_hash"].null_count() == shown.height


@pytest.mark.parametrize(("updates", "levels"), [(1, {4.0}), (2, {4.0, 5.0}), (9, {4.0, 5.0, 6.0})])
def test_each_update_adds_a_level_to_what_the_policy_labels(updates: int, levels: set[float]) -> None:
    corpus, policy = _corpus(updates)
    own = corpus.tasks.join(corpus.samples.filter(generation="SE"), on="task_id", how="semi")
    assert set(own["difficulty"]) == levels
    assert own.height == 10  # half of the tasks stay demonstrations
    assert len(policy.requests) == 3 * own.height


def test_the_share_of_demonstrations_is_kept_and_steps_may_be_larger() -> None:
    corpus, _ = _corpus(updates=1, demonstrations=0.75)
    assert corpus.samples.filter(generation="D").height == 15
    assert reach(_LEVELS, {}, SelfLabelling(demonstrated=3, step=2), 1) == {"copying": [4, 5]}
    assert reach({"sums": [1.0]}, {}, SelfLabelling(demonstrated=3), 5) == {"sums": []}


@pytest.mark.parametrize(("updates", "levels"), [(0, []), (1, [4]), (2, [4, 5]), (3, [5, 6])])
def test_the_newest_levels_alone_may_be_labelled(updates: int, levels: list[float]) -> None:
    assert reach(_LEVELS, {}, SelfLabelling(demonstrated=3, newest=2), updates) == {"copying": levels}


def test_what_evaluation_directed_counts_in_place_of_the_schedule() -> None:
    for updates in (0, 9):
        corpus, _ = _corpus(updates, directed={"copying": [2, 3, 4, 5]})
        own = corpus.tasks.join(corpus.samples.filter(generation="SE"), on="task_id", how="semi")
        assert set(own["difficulty"]) == {4.0, 5.0}
    corpus, policy = _corpus(9, directed={"copying": [2, 3]})
    assert policy.requests == [], "nothing beyond what is demonstrated"
    assert corpus.tasks.height == 20


def test_the_answers_of_labelled_tasks_make_no_difference() -> None:
    corpus, policy = _corpus(updates=2)
    blind, unseen = _corpus(updates=2, hidden=True)
    assert policy.requests != []
    assert unseen.requests == policy.requests
    assert blind.samples.filter(generation="SE").equals(corpus.samples.filter(generation="SE"))
