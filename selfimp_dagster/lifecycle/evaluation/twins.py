"""Twins: anchor items asked once more in transformed form, so that memorised ones stand out."""

from collections import Counter

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle.evaluation.fingerprint import answering
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.records import TWINS, derive_seed, frame
from selfimp_dagster.tasks.pools import prompt_key, side_of, tasks_frame, tasks_from_frame
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations import TRANSFORMATIONS
from selfimp_dagster.tasks.verifiers import verify

_SEEDS = 40
"""Seeds that are tried for a twin that belongs to the anchor side. With a share of a tenth of all prompts on
that side, one in seventy items is missed."""

_FRUITLESS = 8
"""Items of a skill in a row without a twin after which its others are not tried."""


def twin_items(campaign: Campaign, round_number: int, items: pl.DataFrame) -> pl.DataFrame:
    """Twins of so many anchor items of a round as `evaluation.twins` asks for (records.TASKS, pool twin).

    Other items and other twins every round. Each item is transformed in the first way of TRANSFORMATIONS
    that applies. A twin belongs to the anchor side of all prompts, so that no round trains on it or has it as
    a fresh item, and is none of the items itself. There are fewer where few items can be transformed.

    Args:
        items: the evaluation items of the round, records.TASKS.
    """
    seed = derive_seed("twins", campaign.seed, round_number)
    taken = {prompt_key(prompt) for prompt in items["prompt"]}
    anchor = tasks_from_frame(items.filter(pl.col("pool") == "anchor"))
    fruitless: Counter[str] = Counter()
    twins: list[Task] = []
    for task in sorted(anchor, key=lambda task: derive_seed(seed, task.task_id)):
        if len(twins) == campaign.evaluation.twins:
            break
        if fruitless[task.skill] == _FRUITLESS:
            continue
        twin = _twin(task, seed, taken, campaign.pools.evaluation_share)
        if twin is None:
            fruitless[task.skill] += 1
        else:
            fruitless[task.skill] = 0
            taken.add(prompt_key(twin.prompt))
            twins.append(twin)
    return tasks_frame(twins, "twin")


def twin_answers(
    sampler: DurableSampler, campaign: Campaign, twins: pl.DataFrame, evaluations: pl.DataFrame
) -> pl.DataFrame:
    """The answers of one arm to the twins beside those to the items (records.TWINS).

    Args:
        sampler: draws from the weights of the arm.
        twins: from `twin_items`.
        evaluations: the arm's answers to the items, records.EVALUATIONS.
    """
    if twins.is_empty():
        return TWINS.to_frame()
    items = {
        row["item_id"]: row for row in evaluations.filter(pl.col("suite") == "anchor").iter_rows(named=True)
    }
    arm = next(iter(items.values()))
    drawn = sampler.sample(
        [SampleRequest(twin["task_id"], campaign.messages(twin["prompt"]), 0) for twin in twins.to_dicts()],
        answering(campaign),
        generation="SE",
        label=f"twins for {arm['arm']}",
    )
    return frame(
        (
            {
                "twin_id": twin.task_id,
                "item_id": twin.parent_ids[0],
                "skill": twin.skill,
                "transformation": twin.source,
                "prompt": twin.prompt,
                "answer": twin.answer,
                "arm": arm["arm"],
                "policy_hash": arm["policy_hash"],
                "item_response": items[twin.parent_ids[0]]["response"],
                "item_score": items[twin.parent_ids[0]]["score"],
                "response": answer["response"],
                "score": verify(twin, answer["response"]).value,
                "prompt_tokens": answer["prompt_tokens"],
                "completion_tokens": answer["completion_tokens"],
                "fingerprint": arm["fingerprint"],
            }
            for twin, answer in zip(tasks_from_frame(twins), drawn.iter_rows(named=True), strict=True)
        ),
        TWINS,
    )


def _twin(task: Task, seed: int, taken: set[str], evaluation_share: float) -> Task | None:
    for transformation in TRANSFORMATIONS.values():
        for number in range(_SEEDS):
            twin = transformation(task, derive_seed(seed, number))
            if twin is None:
                break
            if side_of(twin.prompt, evaluation_share) == "anchor" and prompt_key(twin.prompt) not in taken:
                return twin
    return None
