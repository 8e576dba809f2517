"""The dimensions of a round, on rows whose figures can be worked out by hand."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimp_dagster.lifecycle.evaluation.continuation import Continuation
from selfimp_dagster.lifecycle.evaluation.dimensions import (
    DRAWS,
    EMBEDDED,
    MEASURES,
    Embedded,
    Evidence,
    cost_dimensions,
    dimensions,
    distinct_n,
    falls,
    responses_to_embed,
)
from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.promotion import PromotionRule, judge
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval, wilson
from selfimp_dagster.lifecycle.rewards.gold_probe import Bias, JudgeRecord, JudgeSummary
from selfimp_dagster.records import DIMENSIONS, EPISODES, REWORDINGS, SELECTION, TASKS, TWINS, frame

MakeRows = Callable[..., pl.DataFrame]

MIX = {"sums": 1.0, "gcd": 1.0}
SOUND = Probe(right=10, right_accepted=10, corrupted=10, corrupted_accepted=0, errors=0)


def drawn(
    responses: Mapping[str, Sequence[tuple[str, bool]]], skill: str = "sums", temperature: float = 0.7
) -> pl.DataFrame:
    """Samples of tasks: the responses to each, and whether each is right."""
    rows = [
        {
            "sample_id": f"{task}-{number}",
            "task_id": task,
            "skill": skill,
            "response": response,
            "right": right,
            "mean_logprob": -0.5,
            "sampling": json.dumps({"temperature": temperature}),
            "temperature": temperature,
        }
        for task, given in responses.items()
        for number, (response, right) in enumerate(given)
    ]
    return frame(rows, DRAWS)


def evidence(evaluations: pl.DataFrame, **changes: Any) -> Evidence:
    nothing = DRAWS.to_frame()
    arguments: dict[str, Any] = {
        "evaluations": evaluations,
        "items": TASKS.to_frame(),
        "rewordings": REWORDINGS.to_frame(),
        "twins": TWINS.to_frame(),
        "episodes": EPISODES.to_frame(),
        "earlier": {},
        "draws": {"incumbent": nothing, "candidate": nothing},
        "embedded": {},
        "votes_before": nothing,
        "selection": SELECTION.to_frame(),
        "verdict": judge(evaluations, PromotionRule(), MIX, Continuation(rounds=4), 0),
        "probe": SOUND,
        "skill_weights": MIX,
    }
    return Evidence(**(arguments | changes))


def found(rows: pl.DataFrame, measure: str, arm: str = "candidate") -> dict[str, Any]:
    return rows.filter(pl.col("measure") == measure, pl.col("arm") == arm).row(0, named=True)


def test_pass_at_k_and_distinct_solutions_are_those_of_the_samples(make_rows: MakeRows) -> None:
    votes = drawn(
        {
            "a": [("7", True), ("07", True), ("8", False), ("7", True)],  # c = 3 of 4
            "b": [("8", False), ("9", False), ("8", False)],  # c = 0 of 3
            "c": [("7", True)],  # sampled once: tells nothing of pass@k
        }
    )
    draws = {"incumbent": DRAWS.to_frame(), "candidate": votes}
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), draws=draws))
    assert found(rows, "pass_at_1")["value"] == pytest.approx((3 / 4 + 0) / 2)
    assert found(rows, "pass_at_k")["value"] == pytest.approx((1 + 0) / 2)  # k = 3
    assert found(rows, "pass_at_k")["note"] == "k = 3; 2 train tasks of sums, temperature 0.7."
    # Of a's right responses "7" is there twice and "07" once: 1 - C(2,3)/C(4,3) = 1 and 1 - C(3,3)/4 = 3/4.
    assert found(rows, "distinct_solutions")["value"] == pytest.approx((1 + 3 / 4) / 2)
    assert found(rows, "distinct_1")["value"] == pytest.approx((3 / 3 + 2 / 3) / 2)
    assert found(rows, "distinct_solutions")["n"] == 2
    assert found(rows, "token_entropy")["value"] == 0.5
    assert found(rows, "token_entropy")["n"] == 3
    assert rows.filter(pl.col("measure") == "pass_at_k", pl.col("arm") == "incumbent").is_empty()
    assert rows.filter(pl.col("measure") == "distinct_2").is_empty(), "no response has two words"


def test_k_is_common_to_both_arms(make_rows: MakeRows) -> None:
    draws = {
        "incumbent": drawn({"a": [("7", True), ("8", False)]}),
        "candidate": drawn({"b": [("7", True), ("8", False), ("8", False), ("8", False)]}),
    }
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), draws=draws))
    assert found(rows, "pass_at_k", "incumbent")["value"] == 1.0
    assert found(rows, "pass_at_k", "candidate")["value"] == pytest.approx(1 / 2)  # 1 - C(3,2)/C(4,2)


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    responses = [["I", "do", "not", "know"], ["I", "do"]]
    assert distinct_n(responses, 1) == pytest.approx(4 / 6)
    assert distinct_n(responses, 2) == pytest.approx(3 / 4)
    assert distinct_n([["7"], []], 2) is None


def test_a_skill_is_compared_with_the_best_the_line_has_had(make_rows: MakeRows) -> None:
    best = make_rows([1] * 9 + [0], [0] * 10)
    worse = make_rows([1] * 5 + [0] * 5, [0] * 10)
    now = make_rows([1] * 7 + [0] * 3, [1] * 6 + [0] * 4)
    rows = dimensions(evidence(now, earlier={"tiny/0000": best, "tiny/0001": worse}))
    change = found(rows, "worst_skill_change")
    assert change["value"] == pytest.approx(-0.3)
    expected = paired_difference_interval([-1.0] * 3 + [0.0] * 7)
    assert (change["low"], change["high"]) == pytest.approx(expected)
    assert change["note"] == "sums: 0.600, best so far 0.900 (the incumbent of tiny/0000)."
    assert rows.filter(pl.col("measure") == "worst_guard_change").is_empty(), "there is no guard skill"


def test_the_worst_of_several_skills_has_the_interval_of_all(make_rows: MakeRows) -> None:
    now = pl.concat(
        [make_rows([1] * 50, [1] * 50), make_rows([1] * 30 + [0] * 20, [1] * 20 + [0] * 30, skill="gcd")]
    )
    change = found(dimensions(evidence(now)), "worst_skill_change")
    assert change["note"].startswith("gcd: 0.400, best so far 0.600")
    expected = paired_difference_interval([-1.0] * 10 + [0.0] * 40, confidence=0.975)
    assert (change["low"], change["high"]) == pytest.approx(expected)


def test_answers_under_another_harness_are_not_compared(make_rows: MakeRows) -> None:
    other = make_rows([1] * 10, [1] * 10).with_columns(fingerprint=pl.lit("another"))
    rows = dimensions(evidence(make_rows([1] * 5 + [0] * 5, [1] * 10), earlier={"tiny/0000": other}))
    assert found(rows, "worst_skill_change")["value"] == pytest.approx(0.5)


def test_guard_skills_erode_visibly_over_rounds(make_rows: MakeRows) -> None:
    anchor = make_rows([0] * 4, [0] * 4)
    first = make_rows([1] * 60, [1] * 60, suite="guard", skill="words")
    now = make_rows([1] * 55 + [0] * 5, [1] * 50 + [0] * 10, suite="guard", skill="words")
    rows = dimensions(evidence(pl.concat([anchor, now]), earlier={"tiny/0000": first}))
    change = found(rows, "worst_guard_change")
    assert change["value"] == pytest.approx(-10 / 60)
    assert change["high"] < 0
    assert any(sentence.startswith("worst_guard_change is -0.167: words") for sentence in falls(rows))


def test_sharpening_only_is_pass_at_1_up_and_pass_at_k_down(make_rows: MakeRows) -> None:
    many = range(200)
    wide = drawn({f"t{n}": [("7", n % 2 == 0 or v == 0) for v in range(4)] for n in many})
    narrow = drawn({f"u{n}": [("7", n % 5 != 0)] * 4 for n in many})
    nothing = DRAWS.to_frame()
    rows = make_rows([0, 1], [1, 1])
    sharper = dimensions(evidence(rows, draws={"incumbent": nothing, "candidate": narrow}, votes_before=wide))
    assert found(sharper, "pass_at_1_change")["value"] == pytest.approx(0.8 - (0.5 + 0.5 / 4))
    assert found(sharper, "pass_at_k_change")["value"] == pytest.approx(0.8 - 1.0)
    assert found(sharper, "sharpening_only")["value"] == 1.0
    wider = dimensions(evidence(rows, draws={"incumbent": nothing, "candidate": wide}, votes_before=narrow))
    assert found(wider, "sharpening_only")["value"] == 0.0
    assert any(sentence.startswith("sharpening_only") for sentence in falls(sharper))
    assert not falls(wider)


def test_votes_under_other_parameters_or_without_a_predecessor_say_nothing_of_change(
    make_rows: MakeRows,
) -> None:
    votes = drawn({"a": [("7", True), ("8", False)]})
    hotter = drawn({"b": [("7", True), ("8", False)]}, temperature=1.0)
    for before in (DRAWS.to_frame(), hotter):
        draws = {"incumbent": DRAWS.to_frame(), "candidate": votes}
        rows = dimensions(evidence(make_rows([0, 1], [1, 1]), draws=draws, votes_before=before))
        assert rows.filter(
            pl.col("measure").str.ends_with("_change").and_(pl.col("measure").str.starts_with("pass_at"))
        ).is_empty()


def test_the_hardest_difficulty_is_the_one_that_is_surely_solved(make_rows: MakeRows) -> None:
    parts = {("sums", 1.0): [1] * 20, ("gcd", 2.0): [1] * 12 + [0] * 8}
    rows = pl.concat([make_rows([0] * 20, scores, skill=skill) for (skill, _), scores in parts.items()])
    blank = dict.fromkeys(TASKS)
    items = frame(
        (
            {**blank, "task_id": f"anchor-{skill}-{n:04d}", "pool": "anchor", "difficulty": level}
            for skill, level in parts
            for n in range(20)
        ),
        TASKS,
    )
    table = dimensions(evidence(rows, items=items))
    hardest = found(table, "hardest_difficulty_solved")
    assert wilson(12, 20).low < 0.5 < wilson(12, 20).high
    assert (hardest["value"], hardest["low"], hardest["high"], hardest["n"]) == (1.0, 1.0, 2.0, 20)
    assert table.filter(
        pl.col("measure") == "hardest_difficulty_solved", pl.col("arm") == "incumbent"
    ).is_empty(), "the incumbent solves no level"


def test_length_is_compared_item_by_item(make_rows: MakeRows) -> None:
    tokens = pl.when(pl.col("arm") == "candidate").then(3).otherwise(2).cast(pl.Int64)
    rows = make_rows([0] * 10, [1] * 10).with_columns(completion_tokens=tokens)
    ratio = found(dimensions(evidence(rows)), "length_ratio")
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((1.5, 1.5, 1.5))
    assert ratio["note"] == "3.00 tokens an answer, 2.00 of the incumbent."


def test_consistency_is_the_share_of_items_answered_alike(make_rows: MakeRows) -> None:
    asked = {
        "same answer": [("7", 0.0), ("7", 0.0), ("7", 0.0)],
        "no answer in any": [(None, 0.0), (None, 0.0), (None, 0.0)],
        "right in other words": [("paris", 1.0), ("it is paris", 1.0), ("paris", 1.0)],
        "another answer": [("7", 1.0), ("7", 1.0), ("8", 0.0)],
        "no answer once": [("7", 0.0), (None, 0.0), ("7", 0.0)],
    }
    blank = dict.fromkeys(REWORDINGS)
    rewordings = frame(
        (
            {
                **blank,
                "arm": "candidate",
                "item_id": item,
                "wording": str(n),
                "answer": answer,
                "score": score,
            }
            for item, answers in asked.items()
            for n, (answer, score) in enumerate(answers)
        ),
        REWORDINGS,
    )
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), rewordings=rewordings))
    consistency = found(rows, "rewording_consistency")
    assert (consistency["value"], consistency["n"]) == (3 / 5, 5)
    assert (consistency["low"], consistency["high"]) == pytest.approx(wilson(3, 5))
    assert consistency["note"] == "3 of 5 anchor items, each in 3 wordings."
    assert rows.filter(pl.col("measure") == "rewording_consistency", pl.col("arm") == "incumbent").is_empty()


def test_the_memorisation_gap_is_that_of_items_and_their_twins(
    make_rows: MakeRows, make_twins: MakeRows
) -> None:
    twins = make_twins(([1, 0, 1, 0], [1, 1, 0, 0]), ([1, 1, 1, 1], [1, 0, 0, 0]))
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), twins=twins))
    assert found(rows, "memorisation_gap", "incumbent")["value"] == 0.0
    gap = found(rows, "memorisation_gap")
    assert (gap["value"], gap["n"]) == (0.75, 4)
    assert (gap["low"], gap["high"]) == pytest.approx(paired_difference_interval([0.0, 1.0, 1.0, 1.0]))
    assert gap["note"] == (
        "Items and their twins: numbers 1.000 and 0.500 (2 items), renamed 1.000 and 0.000 (2 items)."
    )


def test_the_memorisation_gap_is_on_the_campaigns_mix(make_rows: MakeRows, make_twins: MakeRows) -> None:
    twins = pl.concat(
        [
            make_twins(([1] * 6, [1] * 6), ([1] * 6, [1] * 6)),
            make_twins(([1] * 2, [1] * 2), ([1] * 2, [0] * 2), skill="gcd"),
        ]
    )
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), twins=twins))
    assert found(rows, "memorisation_gap")["value"] == pytest.approx(0.5)


def test_the_deviation_between_seeds_is_that_of_the_samples(make_rows: MakeRows) -> None:
    votes = drawn(
        {
            "a": [("7", True), ("8", False), ("7", True), ("7", True)],
            "b": [("8", False), ("7", True)],
            "c": [("7", True), ("7", True)],
        }
    )
    draws = {"incumbent": DRAWS.to_frame(), "candidate": votes}
    deviation = found(dimensions(evidence(make_rows([0, 1], [1, 1]), draws=draws)), "seed_deviation")
    # Unbiased variances within the tasks: 4/3 x 3/4 x 1/4 = 1/4, 2 x 1/2 x 1/2 = 1/2, 0; each weighs 1/3.
    assert deviation["value"] == pytest.approx(((1 / 4 + 1 / 2 + 0) / 9) ** 0.5)
    assert deviation["n"] == 3
    assert deviation["note"] == (
        "Of the accuracy of one response to each of 3 train tasks of sums, temperature 0.7."
    )


def test_the_deviation_between_seeds_is_what_repeated_draws_show(make_rows: MakeRows) -> None:
    rng = np.random.default_rng(5)
    chances = rng.random(60)

    def accuracy() -> float:
        return float((rng.random(60) < chances).mean())

    votes = drawn(
        {
            f"t{n:02d}": [("7", bool(rng.random() < chance)) for _ in range(40)]
            for n, chance in enumerate(chances)
        }
    )
    draws = {"incumbent": DRAWS.to_frame(), "candidate": votes}
    deviation = found(dimensions(evidence(make_rows([0, 1], [1, 1]), draws=draws)), "seed_deviation")
    assert deviation["value"] == pytest.approx(np.std([accuracy() for _ in range(4000)]), rel=0.06)


def test_the_embedding_spread_is_the_mean_distance_between_tasks(make_rows: MakeRows) -> None:
    draws = drawn({"a": [("x", True), ("y", True)], "b": [("x", True)], "c": [("z", True)]})
    # a: the mean of (1, 0) and (0, 1); b: (1, 0); c: (-1, 0). Cosines: ab 1/2, ac -1/2, bc -1.
    vectors = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    embedded = {"candidate": Embedded(draws, vectors)}
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), embedded=embedded))
    spread = found(rows, "embedding_spread")
    assert spread["value"] == pytest.approx((1 / 2 + 3 / 2 + 2) / 3, abs=1e-6)
    assert (spread["n"], spread["low"] < spread["value"] < spread["high"]) == (3, True)
    assert spread["note"] == "Between responses to different ones of 3 train tasks, 4 responses."
    assert rows.filter(pl.col("measure") == "embedding_spread", pl.col("arm") == "incumbent").is_empty()
    two = {"candidate": Embedded(draws.head(3), vectors[:3])}
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), embedded=two))
    assert "embedding_spread" not in set(rows["measure"]), "two tasks are one pair"


def test_the_interval_of_the_embedding_spread_holds(make_rows: MakeRows) -> None:
    rng = np.random.default_rng(1)
    holds = 0
    for _ in range(40):
        vectors = rng.normal(size=(20, 3)) + np.eye(3)[0]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        draws = drawn({f"t{n:02d}": [("x", True)] for n in range(20)})
        rows = dimensions(
            evidence(make_rows([0, 1], [1, 1]), embedded={"candidate": Embedded(draws, vectors)})
        )
        spread = found(rows, "embedding_spread")
        holds += spread["low"] <= 1 - 0.2346 <= spread["high"]  # of two million such vectors
    assert holds >= 33


def test_responses_of_many_tasks_are_embedded_and_empty_ones_not() -> None:
    draws = drawn({f"t{n:03d}": [("x", True), (" ", False), ("y", True)] for n in range(100)})
    chosen = responses_to_embed(draws)
    assert chosen.height == EMBEDDED
    assert chosen["task_id"].n_unique() == 100
    assert " " not in set(chosen["response"])


def test_flags_and_contamination_are_counted(make_rows: MakeRows) -> None:
    flags = pl.when(pl.col("item_id") == "anchor-sums-0003").then(pl.lit(["empty"])).otherwise(pl.lit([]))
    evaluations = make_rows([0] * 8, [1] * 8).with_columns(flags=flags.cast(pl.List(pl.String)))
    blank = dict.fromkeys(SELECTION)
    selection = frame(
        ({**blank, "step": "decontamination", "kept": n > 0, "sample_id": str(n)} for n in range(5)),
        SELECTION,
    )
    probe = Probe(right=10, right_accepted=9, corrupted=10, corrupted_accepted=3, errors=0)
    rows = dimensions(evidence(evaluations, selection=selection, probe=probe))
    for arm in ("incumbent", "candidate"):
        assert found(rows, "empty_rate", arm)["value"] == 1 / 8
        assert found(rows, "truncation_rate", arm)["value"] == 0
    assert found(rows, "contamination_rate", "incumbent")["value"] == 1 / 5
    assert found(rows, "verifier_precision")["value"] == 9 / 12
    assert found(rows, "verifier_recall")["value"] == 9 / 10
    assert (found(rows, "verifier_recall")["low"], found(rows, "verifier_recall")["high"]) == wilson(9, 10)


def test_costs_scale_the_gain(make_rows: MakeRows) -> None:
    verdict = judge(make_rows([0] * 50, [1] * 25 + [0] * 25), PromotionRule(), MIX, Continuation(rounds=4), 0)
    rows = cost_dimensions(verdict, seconds=500.0, tokens=250_000, corpus_tokens=9_000, kept=30)
    per_time, per_token = found(rows, "gain_per_1000_seconds"), found(rows, "gain_per_million_tokens")
    assert (per_time["value"], per_token["value"]) == pytest.approx((1.0, 2.0))
    assert per_time["low"] == pytest.approx(2 * verdict.gain_low)
    assert found(rows, "tokens_per_kept_sample", "incumbent")["value"] == 300
    assert cost_dimensions(verdict, 0.0, 0, 0, 0).is_empty()


@settings(deadline=None, max_examples=25)
@given(
    scores=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12),
    votes=st.lists(st.lists(st.booleans(), min_size=1, max_size=4), max_size=5),
    seed=st.integers(0, 100),
)
def test_rows_hold_their_values_and_hang_on_no_order(
    make_rows: MakeRows, scores: list[tuple[int, int]], votes: list[list[bool]], seed: int
) -> None:
    evaluations = make_rows([before for before, _ in scores], [after for _, after in scores])
    table = drawn(
        {f"t{n}": [(f"{v} and {n}", right) for v, right in enumerate(v)] for n, v in enumerate(votes)}
    )
    draws = {"incumbent": table, "candidate": table}
    rows = dimensions(
        evidence(evaluations, draws=draws, votes_before=table, earlier={"tiny/0000": evaluations})
    )
    assert dict(rows.schema) == dict(DIMENSIONS)
    assert not rows.select("measure", "arm").is_duplicated().any()
    for row in rows.iter_rows(named=True):
        assert row["dimension"] == MEASURES[row["measure"]].dimension
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"], row
        assert row["n"] > 0
        assert row["note"].endswith("."), row

    def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sample(fraction=1, shuffle=True, seed=seed)

    again = dimensions(
        evidence(
            shuffled(evaluations),
            draws={arm: shuffled(table) for arm in draws},
            votes_before=shuffled(table),
            earlier={"tiny/0000": shuffled(evaluations)},
        )
    )
    assert again.equals(rows)


def _judge(
    name: str, right: int, corrupted: int, agreed: int, bias: Bias, absolute: bool = True
) -> JudgeSummary:
    """A judge that was tried on 10 right and 10 corrupted answers and judged 20 samples."""
    record = JudgeRecord(
        reward=name, judge=name, policy_hash=None, absolute=absolute, accept=0.6, floor=0.7, barred=""
    )
    return JudgeSummary(record, 10, right, 10, corrupted, 0, 20, 0, 20, 10, 20, agreed, bias)


def test_of_several_judges_the_worst_is_shown_and_all_are_told(make_rows: MakeRows) -> None:
    judges = (
        _judge("strict", right=4, corrupted=0, agreed=19, bias=Bias(0, 0, 0)),
        _judge("mild", right=9, corrupted=3, agreed=15, bias=Bias(8, 1, 1)),
        _judge("pairs", right=8, corrupted=2, agreed=20, bias=Bias(16, 10, 2), absolute=False),
    )
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), judges=judges))
    precision = found(rows, "judge_precision")
    assert (precision["value"], precision["n"]) == (9 / 12, 12)
    assert (precision["low"], precision["high"]) == pytest.approx(wilson(9, 12))
    assert precision["note"] == "mild 0.750 (of 12), pairs 0.800 (of 10), strict 1.000 (of 4)."
    assert found(rows, "judge_recall")["value"] == 0.4
    assert found(rows, "judge_agreement")["note"] == "mild 0.750 (of 20), strict 0.950 (of 20)."
    bias = found(rows, "judge_position_bias")
    assert (bias["value"], bias["note"]) == (0.75, "mild 0.250 (of 8), pairs 0.750 (of 16).")


def test_a_judge_that_accepts_nothing_has_no_precision(make_rows: MakeRows) -> None:
    silent = _judge("strict", right=0, corrupted=0, agreed=10, bias=Bias(0, 0, 0))
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), judges=(silent,)))
    assert set(rows["measure"]) & {name for name in MEASURES if name.startswith("judge_")} == {
        "judge_recall",
        "judge_agreement",
    }


def _episodes(scores: Mapping[tuple[str, str], Sequence[tuple[float, float] | None]]) -> pl.DataFrame:
    """Episodes by arm and environment: outcome and process of each; none: the environment raised."""
    blank = dict.fromkeys(EPISODES)
    return frame(
        (
            blank
            | {
                "episode_id": f"{environment}-{number}",
                "environment": environment,
                "arm": arm,
                "outcome": score[0] if score else None,
                "process": score[1] if score else None,
                "error": None if score else "RuntimeError: broken",
                "fingerprint": "harness",
            }
            for (arm, environment), episodes in scores.items()
            for number, score in enumerate(episodes)
        ),
        EPISODES,
    )


def test_environments_weigh_the_same_and_arms_are_compared_in_the_same_episodes(make_rows: MakeRows) -> None:
    episodes = _episodes(
        {
            ("incumbent", "lake"): [(0, 0.5), (0, 0.5), (1, 1.0), None],
            ("incumbent", "taxi"): [(0, 0.0)],
            ("candidate", "lake"): [(1, 1.0), (0, 0.5), None, (1, 1.0)],
            ("candidate", "taxi"): [(1, 0.5)],
        }
    )
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), episodes=episodes))
    assert found(rows, "environment_outcome", "incumbent")["value"] == pytest.approx((1 / 3 + 0) / 2)
    assert found(rows, "environment_outcome")["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert found(rows, "environment_process")["value"] == pytest.approx((2.5 / 3 + 0.5) / 2)
    assert found(rows, "environment_outcome")["note"] == "lake 0.667 (3 episodes), taxi 1.000 (1 episodes)."
    # Both arms' worlds held in two lakes and the taxi: differences 1 and 0 there, and 1 here.
    change = found(rows, "environment_outcome_change")
    assert (change["value"], change["n"]) == (pytest.approx((1 / 2 + 1) / 2), 3)
    assert change["low"] <= change["value"] <= change["high"]
    assert found(rows, "environment_process_change")["value"] == pytest.approx((0.25 + 0.5) / 2)
    raised = found(rows, "environment_error_rate")
    assert (raised["value"], raised["n"]) == (1 / 5, 5)
    assert (raised["low"], raised["high"]) == pytest.approx(wilson(1, 5))


def test_a_round_whose_environments_all_raised_has_an_error_rate_and_no_scores(make_rows: MakeRows) -> None:
    broken = _episodes({("incumbent", "lake"): [None], ("candidate", "lake"): [None]})
    rows = dimensions(evidence(make_rows([0, 1], [1, 1]), episodes=broken))
    measured = rows.filter(pl.col("measure").str.starts_with("environment"))
    assert set(measured["measure"]) == {"environment_error_rate"}
    assert measured["value"].to_list() == [1, 1]
