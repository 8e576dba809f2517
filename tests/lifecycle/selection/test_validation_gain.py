"""The selector that learns from what a round gained: its update, its draw and the draw's gradient."""

from dataclasses import replace

import numpy as np
import pytest

from selfimp_dagster.lifecycle.selection import SelectionStep
from selfimp_dagster.lifecycle.selection.validation_gain import (
    FEATURES,
    Selector,
    choose,
    learnt,
    standardised,
)

_NOTHING = dict.fromkeys(FEATURES, 0.0)
_TRACE = _NOTHING | {"loss": 0.5, "difficulty": -1.0}


def test_the_weights_follow_the_gain_beyond_the_mean():
    first = learnt(Selector(weights=_NOTHING, trace=_TRACE, gains=0, mean_gain=0.0), 0.2, learning_rate=10)
    assert first.weights["loss"] == pytest.approx(10 * 0.2 * 0.5)
    assert first.weights["difficulty"] == pytest.approx(10 * 0.2 * -1.0)
    assert (first.gains, first.mean_gain) == (1, pytest.approx(0.2))
    second = learnt(first, 0.1, learning_rate=10)
    assert second.weights["loss"] == pytest.approx(1.0 + 10 * (0.1 - 0.2) * 0.5)
    assert (second.gains, second.mean_gain) == (2, pytest.approx(0.15))
    assert learnt(first, None, learning_rate=10) == first


def test_the_gradient_is_that_of_the_draws_log_probability():
    luck = np.random.default_rng(3)
    features = luck.normal(size=(5, 2))
    groups = np.array([0, 0, 0, 1, 1])
    weights = np.array([0.4, -0.3])

    def keys(scores):
        return scores + np.random.default_rng(7).gumbel(size=5)

    kept, gradient = choose(features, features @ weights, groups, 0.6, np.random.default_rng(7))
    assert len(kept) == 3
    order = [place for place in np.argsort(-keys(features @ weights)) if place in kept]

    def log_probability(w):
        scores, total = features @ w, 0.0
        for group in (0, 1):
            left = [place for place in range(5) if groups[place] == group]
            for chosen in (place for place in order if groups[place] == group):
                total += scores[chosen] - np.log(np.exp(scores[left]).sum())
                left.remove(chosen)
        return total

    step = 1e-6
    slopes = [
        (log_probability(weights + step * axis) - log_probability(weights - step * axis)) / (2 * step)
        for axis in np.eye(2)
    ]
    assert gradient * len(kept) == pytest.approx(slopes, rel=1e-4)


def test_rows_are_drawn_with_the_probability_of_their_score():
    features = np.array([[1.0], [0.0], [0.0], [0.0]])
    scores, one = features[:, 0] * np.log(3.0), np.zeros(4)
    drawn = [choose(features, scores, one, 0.25, np.random.default_rng(seed))[0] for seed in range(2000)]
    assert np.mean([0 in kept for kept in drawn]) == pytest.approx(3 / 6, abs=0.04)


def test_features_that_do_not_differ_say_nothing():
    assert standardised(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def _run(context, **parameters):
    step = SelectionStep.of("validation_gain", **parameters)
    task = context.tasks.select("task_id", "skill", "difficulty", "prompt", "chat", "answer")
    rows = context.samples.join(task, on="task_id").sort("task_id", "sample_id")
    return step.method.function(rows, context, step.parameters)


def test_the_state_goes_from_round_to_round_and_a_rerun_leaves_the_same(corpus, tiny_models):
    samples = [(f"s{n}", f"learn {n}", "7" * (1 + n % 3)) for n in range(12)]
    context = corpus(
        [*samples, ("empty", "learn 0", "")],
        rewards={sample_id: 1.0 for sample_id, _, _ in samples},
        earlier=[("e", "test/0000", "learn 1", "7")],
        models=tiny_models,
    )
    frame, first = _run(context, groups=2)
    assert frame.filter("kept").height == 6
    assert frame.filter(sample_id="empty")["reason"].to_list() == ["is empty"]
    assert first.weights == _NOTHING
    assert any(first.trace.values())
    later = replace(context, state=first, parent_gain=0.3)
    assert _run(later, groups=2)[1] == _run(later, groups=2)[1]
    _, second = _run(later, groups=2)
    assert second.weights == pytest.approx({name: 5.0 * 0.3 * first.trace[name] for name in FEATURES})
    assert second.gains == 1
    assert Selector.model_validate_json(second.model_dump_json()) == second


def test_rows_that_lie_at_one_place_are_one_cluster(corpus, scripted):
    points = {f"q\n{n}": (1.0, 0.0) for n in range(20)}
    rewards = {f"s{n:02}": 1.0 for n in range(20)}
    context = corpus(
        [(f"s{n:02}", "q", str(n)) for n in range(20)], rewards=rewards, models=scripted(embeddings=points)
    )
    frame, _ = _run(context)
    assert frame.filter("kept").height == 10
    assert set(frame["evidence"].str.json_path_match("$.cluster")) == {"0"}


def test_no_rows_leave_the_selector_as_it_is(corpus, tiny_models):
    frame, state = _run(corpus([], models=tiny_models))
    assert frame.is_empty()
    assert state.trace == _NOTHING
