"""The generation-verification gap: whether a refinement can help the candidate, measured beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import polars as pl

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import derive_seed

Required = Literal["positive", "proven", "ignored"]
"""What the gap must be for a refinement to be used: above 0; above 0 with its whole interval; whatever."""

Refine = Callable[[RefinementContext], tuple[pl.DataFrame, list[Refined]]]


@dataclass(frozen=True)
class Gap:
    """Accuracy of plain and of refined answers to practice tasks, by the recipe's first reward.

    `value` is the difference with its 95 % interval; the tokens are of all tasks together, those that plain
    answers cost included in what refined ones do.
    """

    tasks: int
    plain: float
    refined: float
    low: float
    high: float
    plain_tokens: int
    refined_tokens: int

    @property
    def value(self) -> float:
        return self.refined - self.plain

    def allows(self, required: Required) -> bool:
        """Whether a refinement of this gap is used."""
        return self.low > 0 if required == "proven" else self.value > 0

    def facts(self) -> dict[str, Any]:
        """The gap as plain data, with the right answers that a thousand tokens bring."""
        return {
            **asdict(self),
            "value": self.value,
            "accuracy_per_1000_tokens_plain": _per_1000(self.plain * self.tasks, self.plain_tokens),
            "accuracy_per_1000_tokens_refined": _per_1000(self.refined * self.tasks, self.refined_tokens),
        }


def gap_of(plain: Sequence[float], refined: Sequence[float], plain_tokens: int, more_tokens: int) -> Gap:
    """The gap of answers to the same tasks (Song et al., arXiv:2412.02674, definition 2.1: gain in utility).

    Args:
        plain, refined: what the reward gives each answer; below 0 counts as 0, above 1 as 1.
        plain_tokens, more_tokens: of the plain answers, and of refining on top.
    """
    before, after = ([min(1.0, max(0.0, value)) for value in values] for values in (plain, refined))
    interval = paired_difference_interval([a - b for a, b in zip(after, before, strict=True)])
    return Gap(
        tasks=len(before),
        plain=sum(before) / len(before),
        refined=sum(after) / len(after),
        low=interval.low,
        high=interval.high,
        plain_tokens=plain_tokens,
        refined_tokens=plain_tokens + more_tokens,
    )


def measured_gap(
    context: RefinementContext, parameters: RefinementParameters, refine: Refine
) -> tuple[Gap | None, pl.DataFrame]:
    """Refines practice tasks as if they were to be answered; the gap, none without any, and what was drawn.

    At most half of the practice is asked; the method has the rest to practise on. It is measured with what
    the recipe may see, its first reward: a recipe that must not know the answers does not learn them here.
    """
    practice = context.practice.sort("task_id")
    asked = practice.tail(min(parameters.gap_tasks, practice.height // 2))
    if asked.is_empty():
        return None, context.before.clear()
    plain = context.sample(
        [
            SampleRequest(id_, context.messages(prompt), 0)
            for id_, prompt in asked.select("task_id", "prompt").iter_rows()
        ],
        Sampling(max_new_tokens=context.max_new_tokens, temperature=0),
        generation="I",
        label="answering for the gap",
    )
    drawn, refined = refine(
        replace(
            context,
            tasks=asked,
            before=plain,
            practice=practice.join(asked, on="task_id", how="anti", maintain_order="left"),
            solved=context.solved.join(asked, on="task_id", how="anti", maintain_order="left"),
            seed=derive_seed(context.seed, "gap"),
            note=lambda name, value: context.note(f"gap: {name}", value),
        )
    )
    samples = pl.concat([plain, drawn]).unique("sample_id", keep="first", maintain_order=True)
    values = context.judge(samples)
    gap = gap_of(
        _values(values, plain["sample_id"]),
        _values(values, [answer.sample_id for answer in refined]),
        int(plain.select(pl.sum("prompt_tokens") + pl.sum("completion_tokens")).item()),
        sum(answer.tokens for answer in refined),
    )
    return gap, samples


def fate(gap: Gap | None, required: Required) -> tuple[bool, str]:
    """Whether a refinement is used, and why."""
    if required == "ignored":
        return True, "used whatever the gap is, which was not measured"
    if gap is None:
        return False, "there is no practice task to measure the gap on"
    told = f"on {gap.tasks} practice tasks the gap is {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    wanted = "its whole interval must lie above 0" if required == "proven" else "it must be above 0"
    return (True, told) if gap.allows(required) else (False, f"{told}; {wanted}")


def _values(values: Mapping[str, float], samples: Sequence[str] | pl.Series) -> list[float]:
    """What each answer is worth; one that is not judged nothing."""
    return [values.get(id_, 0.0) for id_ in samples]


def _per_1000(right: float, tokens: int) -> float:
    return 1000 * right / max(1, tokens)
