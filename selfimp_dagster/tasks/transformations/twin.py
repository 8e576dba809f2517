"""What all twins have in common."""

from dataclasses import replace

from selfimp_dagster.records import task_id
from selfimp_dagster.tasks.suites import Task


def twin(
    transformation: str, task: Task, prompt: str, answer: str | None, entry: str | None = None
) -> Task | None:
    """The task with another prompt, made by a transformation; None if the prompt is the same."""
    if prompt == task.prompt:
        return None
    return replace(
        task,
        task_id=task_id(task.skill, prompt, answer),
        prompt=prompt,
        answer=answer,
        entry=entry,
        source=transformation,
        parent_ids=(task.task_id,),
    )


def judged_by_answer(task: Task) -> bool:
    """Whether a response is compared with the task's answer, and with nothing else."""
    return task.answer is not None and task.verifier in ("math", "exact", "contains")
