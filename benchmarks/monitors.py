"""Monitors: how often any of them sounds in healthy campaigns, and how often each sees its failure.

    python -m benchmarks.monitors
    python -m benchmarks.monitors --campaigns 100

Campaigns are simulated on evidence as a round leaves it, and every monitor that can sound by chance is
asked as in a real round. Items differ in difficulty; a policy answers one right if its ability less the
difficulty plus its own quirk on it is positive. Every second candidate is promoted, unless it is worse: that
the gate would see. In a healthy campaign policies stay as they are, learn (and vary less as they do), or come
and go in ability; rewards, judges and verifiers err, refinement flips answers both ways, and the corpus
quotes an item now and then and has the answers of some, all at a steady rate. A failure is planted in the
third round and stays.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from selfimp_dagster.lifecycle.evaluation.monitors.collapse import collapse
from selfimp_dagster.lifecycle.evaluation.monitors.consensus import wrong_consensus
from selfimp_dagster.lifecycle.evaluation.monitors.forgetting import forgetting
from selfimp_dagster.lifecycle.evaluation.monitors.leakage import contamination, leakage, memorisation
from selfimp_dagster.lifecycle.evaluation.monitors.reading import MONITORS, Reading
from selfimp_dagster.lifecycle.evaluation.monitors.refinement import harmful_refinement
from selfimp_dagster.lifecycle.evaluation.monitors.rewards import (
    JudgeTables,
    judge_bias,
    judge_errors,
    reward_hacking,
    verifier_errors,
)
from selfimp_dagster.lifecycle.evaluation.monitors.rule import TESTED, MonitorRule
from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.summary import Counted, Flips
from selfimp_dagster.lifecycle.rewards.gold_probe import Bias, JudgeRecord, JudgeSummary
from selfimp_dagster.records import (
    EVALUATIONS,
    JUDGE_PROBE,
    REWARDED,
    REWARDS,
    SAMPLES,
    SELECTION,
    TASKS,
    TWINS,
    WATCHED,
)

ROUNDS, ONSET = 8, 2
ANCHOR, FRESH, GUARD, TWINS_ASKED, WATCHED_ITEMS, DRAWS, PROBED, CORPUS, REFINED = (
    200,
    100,
    100,
    48,
    48,
    4,
    64,
    300,
    32,
)
POSSIBLE_ANSWERS = 1000  # so that the corpus has a quarter of the items' answers by chance
RULE = MonitorRule()
SHARING = TESTED - 1  # every monitor has evidence, so each has the least share that there is
Monitors = dict[str, Callable[[float, int | None], Reading]]
Vector = npt.NDArray[np.float64]

HEALTHY = {
    "nothing is learnt": 0.0,
    "abilities come and go": None,
    "0.25 is learnt a round": 0.25,
}
FAILURES: list[tuple[str, str, dict[str, Any]]] = [
    ("collapse", "draws vary 0.4 times as much, ability falls by 0.1 a round", {"varies": 0.4, "step": -0.1}),
    ("collapse", "ability falls by 0.2 a round, draws vary as before", {"step": -0.2, "varies": 1.0}),
    ("wrong_consensus", "of the items, 60 % get one wrong answer by every draw", {"drift": 0.6}),
    ("reward_hacking", "9 of 10 wrong answers please the reward, of right ones 8", {"hacked": 0.9}),
    ("verifier_errors", "the verifier accepts 3 of 4 right answers", {"verifier": 0.75}),
    ("judge_errors", "the judge rightly judges 30 % less of the probe", {"judge": 0.3}),
    ("judge_bias", "the judge follows the position in 90 % of comparisons", {"position": 0.9}),
    ("harmful_refinement", "refinement spoils 25 % of the answers", {"harm": 0.25}),
    ("forgetting", "ability in the guard skill falls by 0.6 a round", {"guard": -0.6}),
    ("leakage", "30 % of the anchor items are known", {"known": 0.3}),
    ("memorisation", "60 % of the anchor items are known", {"known": 0.6}),
    ("contamination", "15 % of the corpus's tasks quote an item", {"quoted": 0.15}),
    (
        "contamination",
        "15 % of the anchor items are in it in other words",
        {"paraphrased": 0.15, "possible": 1_000_000},
    ),
    ("contamination", "the same, of 1,000 possible answers", {"paraphrased": 0.15}),
]
"""Monitors, and what is planted for each: in words, and as what `simulated` is told."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--campaigns", type=int, default=200)
    campaigns = parser.parse_args().campaigns
    print(false_alarms(campaigns), "\n")
    print(power(campaigns // 2))


def false_alarms(campaigns: int) -> str:
    """The share of healthy campaigns in which any monitor sounds, and which."""
    rows = [
        f"| {campaigns} healthy campaigns of {ROUNDS} rounds | planned | open-ended | sounded |",
        "|---|---|---|---|",
    ]
    for name, learnt in HEALTHY.items():
        rng = np.random.default_rng(0)
        plans = (ROUNDS, None)
        found = [first_alarms(simulated(rng, learnt), plans) for _ in range(campaigns)]
        shares = [sum(bool(each[planned]) for each in found) / campaigns for planned in plans]
        sounded = [monitor for each in found for firsts in each.values() for monitor in firsts]
        which = ", ".join(f"{monitor} {sounded.count(monitor)}" for monitor in MONITORS if monitor in sounded)
        rows.append(f"| {name} | {shares[0]:.3f} | {shares[1]:.3f} | {which or 'none'} |")
    return "\n".join(rows)


def power(campaigns: int) -> str:
    """How often each monitor sees its failure within the round in which it is planted, and later."""
    rows = [
        f"| monitor | planted in the third of {ROUNDS} rounds | seen in that round | within 3 | ever |",
        "|---|---|---|---|---|",
    ]
    for monitor, told, failure in FAILURES:
        rng = np.random.default_rng(1)
        firsts = [
            first_alarms(simulated(rng, 0.0, **failure), [ROUNDS], [monitor])[ROUNDS].get(monitor)
            for _ in range(campaigns)
        ]
        after = [
            sum(first is not None and first <= last for first in firsts) / campaigns
            for last in (ONSET, ONSET + 2, ROUNDS)
        ]
        rows.append(f"| {monitor} | {told} | {' | '.join(f'{share:.2f}' for share in after)} |")
    return "\n".join(rows)


def first_alarms(
    rounds: Iterator[Monitors], plans: Sequence[int | None], asked: Sequence[str] = tuple(MONITORS)
) -> dict[int | None, dict[str, int]]:
    """For each plan, the round in which each monitor that sounds does so first."""
    found: dict[int | None, dict[str, int]] = {planned: {} for planned in plans}
    for number, monitors in enumerate(rounds):
        for planned, firsts in found.items():
            level = RULE.level_of_round(planned, number, SHARING)
            for name in asked:
                if name in monitors and name not in firsts and monitors[name](level, planned).is_alarm:
                    firsts[name] = number
    return found


class Policy:
    """An ability, its quirks on the items, and how its draws vary."""

    def __init__(self, rng: np.random.Generator, ability: float, guard: float, varies: float) -> None:
        self.ability, self.guard, self.varies = ability, guard, varies
        self.quirks = rng.normal(0, sqrt(0.5), ANCHOR)
        self.name = f"{rng.integers(1 << 62):x}"

    def child(self, rng: np.random.Generator, learnt: float, guard: float, varies: float) -> "Policy":
        """A policy with quirks much like this one's."""
        child = Policy(rng, self.ability + learnt, self.guard + guard, varies)
        child.quirks = 0.9 * self.quirks + sqrt(1 - 0.81) * child.quirks
        return child


def simulated(rng: np.random.Generator, learnt: float | None, **failure: float) -> Iterator[Monitors]:
    """The monitors of each round of a campaign, ready to be asked at a level."""
    difficulty, guard_difficulty = rng.normal(0, 1, ANCHOR), rng.normal(-1, 1, GUARD)
    guard_quirks = rng.normal(0, 0.3, GUARD)
    possible = int(failure.get("possible", POSSIBLE_ANSWERS))
    item_answers = rng.integers(possible, size=ANCHOR)
    incumbent = Policy(rng, 0.0, 0.0, 1.0)
    watched: dict[str, pl.DataFrame] = {}
    judged: dict[str, pl.DataFrame] = {}
    evaluated: dict[str, pl.DataFrame] = {}
    judges: dict[str, JudgeTables] = {}
    twins: list[pl.DataFrame] = []
    flips: list[tuple[int, Flips | None]] = []
    for number in range(ROUNDS):
        planted = failure if number >= ONSET else {}
        step = float(rng.normal(0, 0.15)) if learnt is None else learnt
        step = planted.get("step", step)
        varies = planted.get("varies", max(0.3, incumbent.varies - 0.3 * max(0.0, step)))
        candidate = incumbent.child(rng, step, planted.get("guard", 0.0), varies)
        round_ = f"simulated/{number:04d}"
        known = rng.random(ANCHOR) < planted.get("known", 0.0)
        arms = {"incumbent": (incumbent, {}), "candidate": (candidate, planted)}
        tables: dict[str, list[pl.DataFrame]] = {"watched": [], "judged": [], "evaluated": [], "twins": []}
        asked = rng.choice(ANCHOR, TWINS_ASKED, replace=False)
        for arm, (policy, fault) in arms.items():
            who = {"arm": arm, "policy_hash": policy.name, "fingerprint": "harness"}
            knows = known if arm == "candidate" else np.zeros(ANCHOR, dtype=bool)
            right = np.maximum(policy.ability - difficulty + policy.quirks > 0, knows).astype(float)
            tables["watched"].append(_watched(rng, policy, difficulty, fault.get("drift", 0.0), who))
            pleased = rng.random(ANCHOR) < np.where(right > 0, 0.8, fault.get("hacked", 0.2))
            tables["judged"].append(_judged(right, pleased.astype(float), who))
            fresh = _answers(rng, policy.ability, FRESH)
            hold = (policy.guard - guard_difficulty + guard_quirks + rng.normal(0, 0.2, GUARD) > 0).astype(
                float
            )
            tables["evaluated"].append(_evaluated({"anchor": right, "fresh": fresh, "guard": hold}, who))
            own = rng.normal(0, sqrt(0.5), TWINS_ASKED)
            twin = (policy.ability - difficulty[asked] + own > 0).astype(float)
            tables["twins"].append(_twins(right[asked], twin, who))
        watched[round_], judged[round_], evaluated[round_] = (
            pl.concat(tables[name]) for name in ("watched", "judged", "evaluated")
        )
        twins.append(pl.concat(tables["twins"]))
        judges[round_] = _judge(rng, planted.get("judge", 0.0), planted.get("position", 0.3))
        spoilt = rng.binomial(REFINED, planted.get("harm", 0.04))
        flips.append((number, Flips(to_right=rng.binomial(REFINED, 0.06), to_wrong=spoilt, n=REFINED)))
        accepted = rng.binomial(PROBED, planted.get("verifier", 0.99))
        probe = Probe(PROBED, accepted, PROBED, rng.binomial(PROBED, 0.005), 0)
        quoting = rng.random(CORPUS) < planted.get("quoted", 0.02)
        leaked = rng.random(ANCHOR) < planted.get("paraphrased", 0.0)
        labelled = Counted(right=float(rng.binomial(CORPUS, 0.6)), n=CORPUS)
        yield _monitors(
            dict(watched),
            dict(judged),
            dict(evaluated),
            dict(judges),
            list(twins),
            list(flips),
            probe,
            _corpus(rng, possible, item_answers, leaked, quoting),
            labelled,
        )
        # Every second candidate is promoted if it lost nothing, and what is planted stays in force.
        if (number % 2 == 0 and step >= 0) or planted:
            incumbent = candidate


def _monitors(
    watched: dict[str, pl.DataFrame],
    judged: dict[str, pl.DataFrame],
    evaluated: dict[str, pl.DataFrame],
    judges: dict[str, JudgeTables],
    twins: list[pl.DataFrame],
    flips: list[tuple[int, Flips | None]],
    probe: Probe,
    corpus: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
    labelled: Counted,
) -> Monitors:
    """Every monitor that can sound by chance."""
    last = list(evaluated)[-1]
    mix = {"sums": 1.0}
    return {
        "collapse": lambda level, planned: collapse(watched, evaluated, RULE, level),
        "wrong_consensus": lambda level, planned: wrong_consensus(watched, labelled, RULE, level),
        "reward_hacking": lambda level, planned: reward_hacking(judged, ["pleasing"], RULE, level),
        "verifier_errors": lambda level, planned: verifier_errors(probe, RULE, level),
        "judge_errors": lambda level, planned: judge_errors(judges, [], "answer", RULE, level),
        "judge_bias": lambda level, planned: judge_bias(judges[last], "answer", RULE, level),
        "harmful_refinement": lambda level, planned: harmful_refinement(flips, planned, RULE),
        "forgetting": lambda level, planned: forgetting(evaluated, True, RULE, level),
        "leakage": lambda level, planned: leakage(evaluated[last], mix, RULE, level),
        "memorisation": lambda level, planned: memorisation(twins, mix, RULE, level),
        "contamination": lambda level, planned: contamination(*corpus, RULE, level),
    }


def _answers(rng: np.random.Generator, ability: float, n: int) -> Vector:
    return (ability - rng.normal(0, 1, n) + rng.normal(0, sqrt(0.5), n) > 0).astype(float)


def _watched(
    rng: np.random.Generator, policy: Policy, difficulty: Vector, drift: float, who: dict[str, str]
) -> pl.DataFrame:
    """Draws whose noise is smaller the less the policy varies; a drifted item gets one wrong answer."""
    reach = (policy.ability - difficulty + policy.quirks)[:WATCHED_ITEMS, None]
    noise = policy.varies * rng.normal(0, 1, (WATCHED_ITEMS, DRAWS))
    right = reach + noise > 0
    wrong = rng.integers(2, 2 + max(1, round(4 * policy.varies)), (WATCHED_ITEMS, DRAWS))
    answers = np.where(right, 1, wrong)
    drifted = rng.random(WATCHED_ITEMS) < drift
    answers[drifted] = 7
    n = WATCHED_ITEMS * DRAWS
    texts = pl.Series(answers.ravel()).cast(pl.String)
    return _table(
        WATCHED,
        n,
        item_id=[f"item-{item:03d}" for item in range(WATCHED_ITEMS) for _ in range(DRAWS)],
        draw=list(range(DRAWS)) * WATCHED_ITEMS,
        response=texts,
        answer=texts,
        score=(answers.ravel() == 1).astype(float),
        mean_logprob=-policy.varies * rng.gamma(4, 0.25, n),
        **who,
    )


def _judged(right: Vector, pleased: Vector, who: dict[str, str]) -> pl.DataFrame:
    return _table(
        REWARDED,
        ANCHOR,
        task_id=_ids("task", ANCHOR),
        reward="pleasing",
        value=pleased,
        counted=pleased,
        score=right,
        response="well",
        completion_tokens=1,
        **who,
    )


def _evaluated(scores: dict[str, Vector], who: dict[str, str]) -> pl.DataFrame:
    return pl.concat(
        _table(
            EVALUATIONS,
            values.size,
            item_id=_ids(suite, values.size),
            suite=suite,
            skill="sums",
            score=values,
            **who,
        )
        for suite, values in scores.items()
    )


def _twins(items: Vector, twins: Vector, who: dict[str, str]) -> pl.DataFrame:
    return _table(
        TWINS,
        items.size,
        twin_id=_ids("twin", items.size),
        skill="sums",
        item_score=items,
        score=twins,
        **who,
    )


def _corpus(
    rng: np.random.Generator,
    possible: int,
    item_answers: npt.NDArray[np.int64],
    leaked: npt.NDArray[np.bool_],
    quoting: npt.NDArray[np.bool_],
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The tasks of the corpus, the selection of their samples, and the items of the round.

    Answers are `possible` numbers at random; a leaked anchor item is a task with the same answer.
    """
    answers = np.concatenate([rng.integers(possible, size=CORPUS), item_answers[leaked]])
    tasks = _table(
        TASKS,
        answers.size,
        task_id=_ids("task", answers.size),
        prompt=_ids("question", answers.size),
        answer=pl.Series(answers).cast(pl.String),
    )
    selection = _table(SELECTION, CORPUS, task_id=_ids("task", CORPUS), step="decontamination", kept=~quoting)
    fresh_answers = rng.integers(possible, size=FRESH)
    items = _table(
        TASKS,
        ANCHOR + FRESH,
        task_id=_ids("item", ANCHOR + FRESH),
        prompt=_ids("item", ANCHOR + FRESH),
        skill="sums",
        pool=["anchor"] * ANCHOR + ["fresh"] * FRESH,
        answer=pl.Series(np.concatenate([item_answers, fresh_answers])).cast(pl.String),
    )
    return tasks, selection, items


def _judge(rng: np.random.Generator, worse: float, position: float) -> JudgeTables:
    """A judge that accepts 85 % of right and 15 % of wrong answers, and compared two in each of 40 tasks."""
    record = JudgeRecord(
        reward="grader", judge="base", policy_hash=None, absolute=True, accept=0.6, floor=0.7, barred=""
    )
    right, corrupted = rng.binomial(32, 0.85 - worse), rng.binomial(32, 0.15 + worse)
    counts = dict.fromkeys(
        ("silent", "judged", "abstained", "unaided_judged", "unaided_accepted", "compared", "agreed"), 0
    )
    summary = JudgeSummary(
        record=record,
        right=32,
        right_accepted=right,
        corrupted=32,
        corrupted_accepted=corrupted,
        bias=Bias(0, 0, 0),
        **counts,
    )
    followed = rng.random(40) < position
    samples = _ids("sample", 40)
    evidence = [
        f'{{"orders":[{{"game":"{name}","first":1.0,"second":{0.0 if follows else 1.0}}}]}}'
        for name, follows in zip(samples, followed, strict=True)
    ]
    truth = _table(REWARDS, 40, sample_id=samples, reward="answer", value=0.0, confidence=1.0, evidence="{}")
    graded = _table(
        REWARDS,
        40,
        sample_id=samples,
        reward="grader",
        value=(rng.random(40) < 0.15).astype(float),
        confidence=1.0,
        evidence=evidence,
    )
    return JudgeTables(
        [summary],
        pl.concat([truth, graded]),
        _table(SAMPLES, 40, sample_id=samples, task_id=_ids("task", 40)),
        JUDGE_PROBE.to_frame(),
    )


def _ids(name: str, n: int) -> list[str]:
    return [f"{name}-{number:03d}" for number in range(n)]


def _table(schema: pl.Schema, n: int, **columns: Any) -> pl.DataFrame:
    """Columns by name, values that are the same in every row given once; the others are null, flags empty."""
    empty = {"flags": [[]] * n} if "flags" in schema else {}
    whole = {
        name: [value] * n if isinstance(value, str | float | int) else value
        for name, value in {**empty, **columns}.items()
    }
    return pl.DataFrame(
        {
            name: pl.Series(name, whole.get(name, [None] * n), dtype=kind, strict=False)
            for name, kind in schema.items()
        }
    )


if __name__ == "__main__":
    main()
