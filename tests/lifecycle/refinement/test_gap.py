"""The generation-verification gap: how it is measured, what of it lets a refinement be used."""

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from scripted import Policy, make_refinement

from selfimp_dagster.lifecycle.refinement.gap import Gap, fate, gap_of, measured_gap
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters

PRACTICE = [f"p{n:02}" for n in range(12)]


def test_the_gap_in_numbers() -> None:
    gap = gap_of([1, 0, 0, 0], [1, 1, 1, 0], 100, 300)
    assert (gap.plain, gap.refined, gap.value) == (0.25, 0.75, 0.5)
    # Bonett and Price with two pseudo-items: mean 2 / 6, second moment 4 / 6.
    half = 1.959964 * ((4 / 6 - (2 / 6) ** 2) / 6) ** 0.5
    assert (gap.low, gap.high) == pytest.approx((2 / 6 - half, min(1, 2 / 6 + half)), abs=1e-6)
    assert gap.facts()["accuracy_per_1000_tokens_plain"] == pytest.approx(1000 * 1 / 100)
    assert gap.facts()["accuracy_per_1000_tokens_refined"] == pytest.approx(1000 * 3 / 400)


def test_values_beyond_0_and_1_count_as_these() -> None:
    gap = gap_of([-0.5, 1.1], [1.2, 1.0], 1, 1)
    assert (gap.plain, gap.refined) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("refined", "low", "positive", "proven"),
    [
        (0.75, 0.1, True, True),
        (0.75, -0.1, True, False),
        (0.5, -0.2, False, False),
        (0.25, -0.6, False, False),
    ],
)
def test_what_a_gap_allows(refined: float, low: float, positive: bool, proven: bool) -> None:
    gap = Gap(16, 0.5, refined, low, 0.9, 10, 20)
    assert fate(gap, "positive")[0] == positive
    assert fate(gap, "proven")[0] == proven
    assert fate(gap, "ignored") == (True, "used whatever the gap is, which was not measured")
    assert (
        f"on 16 practice tasks the gap is {refined - 0.5:+.3f} ({low:+.3f} to +0.900)"
        in fate(gap, "proven")[1]
    )


def test_without_practice_nothing_is_used() -> None:
    assert fate(None, "positive") == (False, "there is no practice task to measure the gap on")
    assert fate(None, "ignored")[0]


def measured(says: Any, values: dict[str, float], **given: Any) -> tuple[Gap | None, pl.DataFrame, list[Any]]:
    """The gap of a method that answers by `says`, and the contexts that it was given."""
    policy, seen = Policy(lambda asked: "plain"), []
    notes: dict[str, Any] = {}
    context = make_refinement(
        policy, {"task": "x"}, values, practice=PRACTICE, solved={"p00": "7", "p11": "7"}, notes=notes
    )

    def refine(context: RefinementContext) -> tuple[pl.DataFrame, list[Refined]]:
        seen.append(context)
        context.note("told", 1)
        rows = context.before.with_columns(
            sample_id="new " + pl.col("sample_id"),
            response=pl.Series([says(task) for task in context.tasks["task_id"]]),
        )
        return rows, [Refined(*row, 1.0, 40) for row in rows.select("task_id", "sample_id").iter_rows()]

    gap, samples = measured_gap(context, RefinementParameters(**given), refine)
    return gap, samples, [*seen, notes]


def test_it_is_measured_on_practice_that_the_method_does_not_see() -> None:
    gap, samples, (seen, notes) = measured(
        lambda task: "right" if task < "p10" else "wrong", {"right": 1.0}, gap_tasks=4
    )
    assert gap is not None
    assert (gap.tasks, gap.plain, gap.refined) == (4, 0.0, 0.5)
    assert (gap.plain_tokens, gap.refined_tokens) == (4 * 11, 4 * 11 + 4 * 40)
    assert seen.tasks["task_id"].to_list() == ["p08", "p09", "p10", "p11"]
    assert seen.practice["task_id"].to_list() == PRACTICE[:8]
    assert seen.solved["task_id"].to_list() == ["p00"], "it cannot recall what it is asked"
    assert samples.height == 8
    assert notes == {"gap: told": 1}


def test_half_of_the_practice_stays_for_the_method() -> None:
    gap, _, (seen, _) = measured(lambda task: "right", {"right": 1.0, "plain": 1.0}, gap_tasks=100)
    assert gap is not None
    assert (gap.tasks, seen.practice.height) == (6, 6)
    assert gap.value == 0


def test_no_practice_no_gap() -> None:
    context = make_refinement(Policy(lambda asked: "plain"), {"task": "x"}, {})
    gap, samples = measured_gap(
        replace(context), RefinementParameters(), lambda context: pytest.fail("asked")
    )
    assert gap is None
    assert samples.is_empty()
