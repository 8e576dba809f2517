"""Another item of the same procedural family."""

from selfimp_dagster.records import derive_seed
from selfimp_dagster.tasks import families
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations.twin import twin


def reseeded(task: Task, seed: int) -> Task | None:
    """An item of the same family with the same parameters: what changed numbers are to such a task.

    The family makes and judges it, so nothing about its answer has to be checked.
    """
    if task.verifier != "reasoning_gym" or task.entry is None:
        return None
    family, parameters, _ = families.decode_item(task.entry)
    item = next(families.items(family, parameters, derive_seed("reseeded", task.task_id, seed)))
    answer = None if item["answer"] is None else str(item["answer"])
    return twin("reseeded", task, item["question"], answer, families.encode_item(family, parameters, item))
