"""A round's corpus by hand: tasks that the tiny model answers with 7, which is right, with 0 and with 5."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from selfimp_dagster.lifecycle.optimization.update import POOL, OptimizationContext
from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.records import REWARDS, TASKS, frame
from selfimp_dagster.registry import Signal

RIGHT = "7"


@dataclass
class Steps:
    """A progress that counts, and may be told to stop at a step."""

    stop_at: int | None = None
    done: list[float] = field(default_factory=list)

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Any:
        yield self

    def advance(self, amount: float = 1) -> None:
        self.done.append(amount)
        if self.stop_at is not None and len(self.done) == self.stop_at:
            raise KeyboardInterrupt


def task(number: int) -> dict[str, Any]:
    return {
        "task_id": f"t{number}",
        "pool": "train",
        "skill": "learning",
        "suite": "file:learn.jsonl",
        "prompt": f"learn {number}",
        "answer": RIGHT,
        "verifier": "exact",
        "source": "file",
        "parent_ids": [],
        "generation_depth": 0,
    }


def pool_row(sample: str, number: int, response: str, **others: Any) -> dict[str, Any]:
    return {
        "sample_id": sample,
        "task_id": f"t{number}",
        "round": "tiny/0000",
        "skill": "learning",
        "prompt": f"learn {number}",
        "messages": [{"role": "user", "content": f"learn {number}"}],
        "response": response,
        "ended": True,
        "fate": "kept",
        "own": True,
        "temperature": 1.0,
        "token_limit": 4,
        **others,
    }


def make_pool(groups: Mapping[int, Sequence[str]], **others: Any) -> pl.DataFrame:
    """Each task's responses; wrong ones are contrasts, what repeats an earlier one of the task a sibling."""
    rows = []
    for number, responses in groups.items():
        for place, response in enumerate(responses):
            fate = "kept" if response == RIGHT else "contrast"
            if response in responses[:place]:
                fate = "sibling"
            rows.append(pool_row(f"s{number}-{place}", number, response, **{"fate": fate, **others}))
    return frame(rows, POOL)


def make_context(
    groups: Mapping[int, Sequence[str]],
    *,
    model: Path = Path("/nowhere"),
    output: Path = Path("/nowhere"),
    values: Mapping[str, float] | None = None,
    gives: frozenset[Signal] = frozenset({"verdict", "answers", "votes"}),
    progress: Any = None,
    judge: Any = None,
    inherited: Path | None = None,
    **others: Any,
) -> OptimizationContext:
    """A context over such a pool. The reward `answer` gives 1 for 7, or the values."""
    pool = make_pool(groups, **others)
    tasks = frame([task(number) for number in groups], TASKS)
    judged = {id_: float(said == RIGHT) for id_, said in pool.select("sample_id", "response").iter_rows()}
    given = judged if values is None else values
    told = {"reward": "answer", "kind": "V", "confidence": 1.0, "evidence": ""}
    return OptimizationContext(
        rows=pool.filter(fate="kept").select(list(SUBSET)),
        earlier=SUBSET.to_frame(),
        pool=pool,
        tasks=tasks,
        rewards=frame(({"sample_id": id_, "value": value, **told} for id_, value in given.items()), REWARDS),
        gives={"answer": gives},
        judge=judge or (lambda samples: answer_rewards(tasks, samples)),
        start=model,
        incumbent=model,
        base=model,
        output=output,
        companions=output.with_name("companions"),
        inherited=inherited,
        seed=3,
        progress=progress or Steps(),
    )
