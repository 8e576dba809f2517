"""Workflow search: which refinement methods, one after the other, help most (survey 5.4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import find_method, method

_NAME = "workflow_search"

Workflow = tuple[str, ...]
"""Refinement methods by name, each refining what the one before it answered."""


class WorkflowSearch(RefinementParameters):
    """Parameters of `workflow_search`."""

    operators: tuple[str, ...] = Field(
        default=("self_consistency", "self_refine", "critic", "debate"),
        min_length=1,
        description="Refinement methods that a workflow is made of, with their default parameters.",
    )
    practice: int = Field(default=16, ge=1, description="Tasks of the corpus that a workflow is tried on.")
    iterations: int = Field(default=4, ge=1, description="Workflows that are tried beside the empty one.")
    longest: int = Field(default=2, ge=1, description="Methods that a workflow may chain.")
    exploration: float = Field(
        default=0.2, ge=0, le=1, description="Share of the choice of a parent that is left to chance."
    )
    sharpness: float = Field(
        default=10.0, ge=0, description="How much a better score makes a workflow more likely to be a parent."
    )

    @field_validator("operators")
    @classmethod
    def _known(cls, operators: tuple[str, ...]) -> tuple[str, ...]:
        for operator in operators:
            if operator == _NAME:
                raise ValueError(f"{_NAME} cannot be a part of itself")
            try:
                find_method("refinement", operator)
            except SelfimpError as error:
                raise ValueError(f"{error.what}; {error.fix}") from error
        return operators


@dataclass(frozen=True)
class Outcome:
    """What a workflow came to on the practice: mean reward, and tokens a task."""

    score: float
    tokens: float


@method("refinement", _NAME, parameters=WorkflowSearch, section="5.4", paper="arXiv:2410.10762")
def workflow_search(
    context: RefinementContext, parameters: WorkflowSearch
) -> tuple[pl.DataFrame, list[Refined]]:
    """Chains of refinement methods are tried on practice tasks and changed step by step; the best is used.

    In: tasks of the round's corpus; signal: the recipe's first reward of each chain's answers; out: answers
    of the best chain, of equal ones that with the fewest tokens. The empty chain, plain answers, is among
    them. A parent is drawn from the archive by AFlow's mix of chance and score, and its child has one method
    appended, removed or exchanged. AFlow has a model write that change as code; here it is drawn from a typed
    space, so nothing that a model wrote is run. `agreement` is the chain's score.
    """
    chosen = np.random.default_rng(context.seed)
    practice = context.practice.sort("task_id").head(parameters.practice)
    archive: dict[Workflow, Outcome] = {}
    drawn = []
    if not practice.is_empty():
        plain = _greedy(context, practice)
        tried = replace(context, tasks=practice, before=plain)
        drawn.append(plain)
        workflow: Workflow | None = ()
        while workflow is not None and len(archive) <= parameters.iterations:
            samples, refined = run(workflow, tried)
            drawn.append(samples)
            values = context.judge(pl.concat([plain, samples]).unique("sample_id", maintain_order=True))
            archive[workflow] = Outcome(
                sum(values.get(answer.sample_id, 0.0) for answer in refined) / len(refined),
                sum(answer.tokens for answer in refined) / len(refined),
            )
            workflow = _child(archive, parameters, chosen)
    best = min(archive, key=lambda tried: (-archive[tried].score, archive[tried].tokens), default=())
    samples, refined = run(best, context)
    spent = pl.concat([samples.clear(), *drawn]).unique("sample_id")
    shared = int(spent.select(pl.sum("prompt_tokens") + pl.sum("completion_tokens")).item()) // len(refined)
    score = archive[best].score if archive else 0.0
    everything = pl.concat([samples, *drawn]).unique("sample_id", keep="first", maintain_order=True)
    return everything, [
        replace(answer, agreement=min(1.0, max(0.0, score)), tokens=answer.tokens + shared)
        for answer in refined
    ]


def run(workflow: Workflow, context: RefinementContext) -> tuple[pl.DataFrame, list[Refined]]:
    """All samples that a workflow draws, and its answer to each task with the tokens of all its methods."""
    drawn = [context.before.clear()]
    refined = [
        Refined(task, sample, 1.0, 0)
        for task, sample in context.before.select("task_id", "sample_id").iter_rows()
    ]
    for position, name in enumerate(workflow):
        operator = find_method("refinement", name)
        seeded = replace(context, seed=derive_seed(context.seed, "workflow", position, name))
        samples, answers = operator.function(seeded, operator.parameters())
        drawn.append(samples)
        known = pl.concat([context.before, samples]).unique("sample_id", keep="first")
        carriers = pl.DataFrame({"sample_id": [answer.sample_id for answer in answers]})
        context = replace(
            context,
            before=carriers.join(known, on="sample_id", maintain_order="left").select(context.before.columns),
        )
        refined = [
            replace(answer, tokens=answer.tokens + earlier.tokens)
            for answer, earlier in zip(answers, refined, strict=True)
        ]
    return pl.concat(drawn).unique("sample_id", keep="first", maintain_order=True), refined


def parent_chances(scores: Sequence[float], exploration: float, sharpness: float) -> list[float]:
    """AFlow's chances to be a parent: exploration / n + (1 - exploration) softmax(sharpness (s - best))."""
    raised = [math.exp(sharpness * (score - max(scores))) for score in scores]
    return [exploration / len(scores) + (1 - exploration) * value / math.fsum(raised) for value in raised]


def neighbours(workflow: Workflow, operators: Sequence[str], longest: int) -> list[Workflow]:
    """Every workflow that is one method more, one less, or one exchanged."""
    longer = [(*workflow, name) for name in operators] if len(workflow) < longest else []
    shorter = [workflow[:place] + workflow[place + 1 :] for place in range(len(workflow))]
    exchanged = [
        (*workflow[:place], name, *workflow[place + 1 :])
        for place in range(len(workflow))
        for name in operators
        if name != workflow[place]
    ]
    return list(dict.fromkeys([*longer, *shorter, *exchanged]))


def _child(
    archive: dict[Workflow, Outcome], parameters: WorkflowSearch, chosen: np.random.Generator
) -> Workflow | None:
    """A workflow that was not tried yet; None if every neighbour of every tried one was."""
    open_ = {
        tried: new
        for tried in archive
        if (
            new := [
                near
                for near in neighbours(tried, parameters.operators, parameters.longest)
                if near not in archive
            ]
        )
    }
    if not open_:
        return None
    parents = list(open_)
    chances = parent_chances(
        [archive[parent].score for parent in parents], parameters.exploration, parameters.sharpness
    )
    children = open_[parents[chosen.choice(len(parents), p=chances)]]
    return children[chosen.integers(len(children))]


def _greedy(context: RefinementContext, tasks: pl.DataFrame) -> pl.DataFrame:
    requests = [
        SampleRequest(task["task_id"], context.messages(task["prompt"]), 0)
        for task in tasks.iter_rows(named=True)
    ]
    greedy = Sampling(max_new_tokens=context.max_new_tokens, temperature=0)
    return context.sample(requests, greedy, generation="I", label="answering practice")
