"""How many of the policy's responses to a task agree."""

import polars as pl

from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer


def votes(pool: pl.DataFrame, tasks: pl.DataFrame) -> pl.DataFrame:
    """The rows that the policy drew by itself, with `answer`, `share` and `cast`.

    `answer` is what the response answers, in the form in which equal answers are equal; null where there is
    none. `share` is the share of the task's rows with that answer, 0 without one, `cast` their number.
    """
    by_id = {task.task_id: task for task in tasks_from_frame(tasks)}
    own = pool.filter("own").sort("task_id", "sample_id")
    answers = [
        comparable_answer(by_id[task], response)
        for task, response in own.select("task_id", "response").iter_rows()
    ]
    agree = pl.len().over("task_id", "answer")
    return own.with_columns(pl.Series("answer", answers, dtype=pl.String)).with_columns(
        pl.when(pl.col("answer").is_null())
        .then(0.0)
        .otherwise(agree / pl.len().over("task_id"))
        .alias("share"),
        pl.len().over("task_id").cast(pl.Int64).alias("cast"),
    )
