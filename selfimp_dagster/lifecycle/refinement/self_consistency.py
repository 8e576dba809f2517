"""Self-consistency: the most frequent answer of several samples (survey 5.2)."""

from collections import Counter

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer


class SelfConsistency(RefinementParameters):
    """Parameters of `self_consistency`."""

    votes: int = Field(default=5, ge=2, description="Samples that vote on each task.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of the votes.")


@method(
    "refinement",
    "self_consistency",
    parameters=SelfConsistency,
    section="5.2",
    paper="arXiv:2203.11171",
    needs=frozenset({"verifier"}),
)
def self_consistency(
    context: RefinementContext, parameters: SelfConsistency
) -> tuple[pl.DataFrame, list[Refined]]:
    """The majority answer of several samples replaces the greedy one.

    A response without an answer does not vote. Ties go to the greedy answer when it is among the
    most frequent, else to the answer that was sampled first. Returns the votes (records.SAMPLES)
    and one answer per task; the answer is carried by the shortest response that gives it, or by
    the greedy sample where nothing was voted for.
    """
    sampling = Sampling(max_new_tokens=context.max_new_tokens, temperature=parameters.temperature)
    requests = [
        SampleRequest(
            task["task_id"], context.messages(task["prompt"]), derive_seed(context.seed, task["task_id"], n)
        )
        for task in context.tasks.iter_rows(named=True)
        for n in range(parameters.votes)
    ]
    votes = context.sample(requests, sampling, generation="SE", label="voting")
    by_task = votes.partition_by("task_id", as_dict=True)
    refined = []
    for task, before in zip(
        tasks_from_frame(context.tasks), context.before.iter_rows(named=True), strict=True
    ):
        ballots = by_task[(task.task_id,)].iter_rows(named=True)
        answers = [(comparable_answer(task, ballot["response"]), ballot) for ballot in ballots]
        counts = Counter(answer for answer, _ in answers if answer is not None)
        tokens = sum(ballot["prompt_tokens"] + ballot["completion_tokens"] for _, ballot in answers)
        if not counts:
            refined.append(Refined(task.task_id, before["sample_id"], 0.0, tokens))
            continue
        most = max(counts.values())
        leaders = [answer for answer in counts if counts[answer] == most]
        greedy = comparable_answer(task, before["response"])
        winner = greedy if greedy in leaders else leaders[0]
        carrier = min(
            (ballot for answer, ballot in answers if answer == winner),
            key=lambda ballot: (len(ballot["response"]), ballot["sample_id"]),
        )
        refined.append(Refined(task.task_id, carrier["sample_id"], most / parameters.votes, tokens))
    return votes, refined
