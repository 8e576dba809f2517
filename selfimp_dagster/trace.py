"""Row lineage: what one task, sample or evaluation item came from, and what came of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lineage import connect
from selfimp_dagster.store import ArtifactStore

_PLACES = (
    ("sample", "samples", "sample_id"),
    ("sample", "refined_samples", "sample_id"),
    ("task", "tasks", "task_id"),
    ("task", "refined_tasks", "task_id"),
    ("evaluation item", "evaluation_items", "task_id"),
)
_SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class Event:
    """One thing that happened to a row: in which round, in which stage's artifact, as a sentence."""

    round: str
    stage: str
    what: str


@dataclass(frozen=True)
class Trace:
    """The events of one row, from where it came from to what followed from it."""

    kind: str
    id: str
    events: tuple[Event, ...]


def trace(store: ArtifactStore, id_: str) -> Trace:
    """The history of the row with this id, or with the only id that begins so.

    A training row has the id of its sample. Rounds that are not finished are told as far as they are.

    Raises:
        SelfimpError: no row has such an id, or several have.
    """
    story = _Story(store)
    kind, full = story.find(id_)
    tell: dict[str, Callable[[str], Iterator[Event]]] = {
        "sample": story.of_sample,
        "task": story.of_task,
        "evaluation item": story.of_item,
    }
    return Trace(kind, full, tuple(tell[kind](full)))


class _Story:
    def __init__(self, store: ArtifactStore) -> None:
        self._connection = connect(store)
        self._views = {
            name
            for (name,) in self._connection.execute(
                "SELECT view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
        }
        self._trained = {
            store.open(key, "checkpoint", verify=False).facts["policy_hash"]: str(key)
            for key in store.rounds()
            if store.has(key, "checkpoint")
        }

    def find(self, prefix: str) -> tuple[str, str]:
        """The kind and the full id of the one row that is meant."""
        where = f"id {prefix!r}"
        if len(prefix) < _SHORTEST_PREFIX:
            raise SelfimpError(
                "too short to mean one row", where=where, fix=f"give at least {_SHORTEST_PREFIX} characters"
            )
        found = {
            (kind, row["id"])
            for kind, view, column in _PLACES
            for row in self._rows(
                view, f"SELECT DISTINCT {column} AS id FROM {view} WHERE starts_with({column}, ?)", prefix
            )
        }
        if not found:
            raise SelfimpError(
                "no task, sample or evaluation item in the store has this id",
                where=where,
                fix="look ids up with `selfimp sql`, for example in the views samples and evaluation_items",
            )
        if len(found) > 1:
            listed = ", ".join(f"{kind} {id_}" for kind, id_ in sorted(found))
            raise SelfimpError(f"begins several ids: {listed}", where=where, fix="give more of it")
        return found.pop()

    def of_sample(self, id_: str) -> Iterator[Event]:
        for stage, suffix in (("generated_corpus", ""), ("refined_outputs", "refined_")):
            samples, rewards = f"{suffix}samples", f"{suffix}rewards"
            for sample in self._rows(samples, f"SELECT * FROM {samples} WHERE sample_id = ?", id_):
                yield from self._defined(sample["task_id"])
                yield Event(sample["in_round"], stage, self._drawn(sample))
                for reward in self._rows(
                    rewards,
                    f"SELECT * FROM {rewards} WHERE sample_id = ? AND in_round = ?",
                    id_,
                    sample["in_round"],
                ):
                    yield Event(
                        sample["in_round"],
                        stage,
                        f"reward {reward['reward']} ({reward['kind']}) = {reward['value']:g}: "
                        f"{reward['evidence']}",
                    )
        yield from self._refined(id_)
        for step in self._rows(
            "selection", "SELECT * FROM selection WHERE sample_id = ? ORDER BY in_round, position", id_
        ):
            fate = "kept" if step["kept"] else "dropped"
            yield Event(step["in_round"], "selected_subset", f"{step['step']}: {fate}, {step['reason']}")
        for copy in self._rows(
            "selection",
            "SELECT DISTINCT in_round, step, sample_id FROM selection "
            "WHERE NOT kept AND json_extract_string(evidence, '$.duplicate_of') = ? ORDER BY ALL",
            id_,
        ):
            yield Event(
                copy["in_round"],
                "selected_subset",
                f"sample {copy['sample_id']} was dropped by {copy['step']} in its favour",
            )
        for row in self._rows(
            "training", "SELECT * FROM training WHERE sample_id = ? ORDER BY in_round", id_
        ):
            again = "" if row["origin_round"] == row["in_round"] else f", replayed from {row['origin_round']}"
            yield Event(
                row["in_round"],
                "checkpoint",
                f"trained on in the update {row['update']} with weight {row['weight']:g}{again}",
            )
            yield from self._verdict(row["in_round"])

    def of_task(self, id_: str) -> Iterator[Event]:
        yield from self._defined(id_)
        for sample in self._rows(
            "samples",
            "SELECT s.*, r.value FROM samples s JOIN rewards r USING (sample_id, in_round) "
            "WHERE task_id = ? ORDER BY in_round, sample_id",
            id_,
        ):
            yield Event(
                sample["in_round"],
                "generated_corpus",
                f"sample {sample['sample_id']}, reward {sample['value']:g}: {sample['response']!r}",
            )
        for row in self._rows(
            "subset", "SELECT in_round, sample_id FROM subset WHERE task_id = ? ORDER BY ALL", id_
        ):
            yield Event(row["in_round"], "selected_subset", f"sample {row['sample_id']} was selected")
        for row in self._rows(
            "refinements", "SELECT * FROM refinements WHERE task_id = ? ORDER BY in_round", id_
        ):
            yield Event(row["in_round"], "refined_outputs", _flip(row))

    def of_item(self, id_: str) -> Iterator[Event]:
        for item in self._rows(
            "evaluation_items",
            "SELECT * FROM evaluation_items WHERE task_id = ? ORDER BY in_round LIMIT 1",
            id_,
        ):
            yield Event(item["in_round"], "eval_report", f"{item['pool']} item of {_asked(item)}")
        for answer in self._rows(
            "evaluations", "SELECT * FROM evaluations WHERE item_id = ? ORDER BY in_round, arm DESC", id_
        ):
            notes = ", ".join(
                [*answer["flags"], *(["taken from an earlier round"] if answer["reused"] else [])]
            )
            yield Event(
                answer["in_round"],
                "eval_report",
                f"{answer['arm']} ({self._weights(answer['policy_hash'])}) scored {answer['score']:g} "
                f"in {answer['suite']}: {answer['response']!r}" + (f" ({notes})" if notes else ""),
            )

    def _defined(self, task: str) -> Iterator[Event]:
        for view, stage in (("tasks", "generated_corpus"), ("refined_tasks", "refined_outputs")):
            found = self._rows(
                view, f"SELECT * FROM {view} WHERE task_id = ? ORDER BY in_round LIMIT 1", task
            )
            if found:
                row = found[0]
                made = f", made from {', '.join(row['parent_ids'])}" if row["parent_ids"] else ""
                depth = f"synthetic depth {row['generation_depth']}"
                yield Event(row["in_round"], stage, f"task {task} of {_asked(row)}; {depth}{made}")
                return

    def _drawn(self, sample: dict[str, Any]) -> str:
        parent = f", from sample {sample['parent_sample_id']}" if sample["parent_sample_id"] else ""
        return (
            f"drawn from {self._weights(sample['policy_hash'])} (generation {sample['generation']}, "
            f"{sample['sampling']}, seed {sample['seed']}{parent}), asked "
            f"{sample['messages'][-1]['content']!r}: {sample['response']!r}, "
            f"{sample['mean_logprob']:.2f} nats a token, ended by {sample['finish_reason']}"
        )

    def _refined(self, sample: str) -> Iterator[Event]:
        for row in self._rows(
            "refinements",
            "SELECT * FROM refinements WHERE ? IN (before_sample_id, after_sample_id) ORDER BY in_round",
            sample,
        ):
            role = "the answer after refinement" if row["after_sample_id"] == sample else "the greedy answer"
            yield Event(row["in_round"], "refined_outputs", f"{role}; {_flip(row)}")

    def _verdict(self, round_: str) -> Iterator[Event]:
        for row in self._rows("ledger", "SELECT verdict FROM ledger WHERE round = ?", round_):
            yield Event(round_, "eval_report", row["verdict"])

    def _weights(self, policy_hash: str) -> str:
        origin = self._trained.get(policy_hash)
        return f"the checkpoint of {origin}" if origin else f"the base model {policy_hash[:16]}"

    def _rows(self, view: str, query: str, *values: str) -> list[dict[str, Any]]:
        """Rows of a query as dictionaries; none where no round has the view's table yet."""
        if view not in self._views:
            return []
        result: duckdb.DuckDBPyConnection = self._connection.execute(query, list(values))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _asked(task: dict[str, Any]) -> str:
    return f"{task['skill']} ({task['suite']}), expecting {task['answer']!r}: {task['prompt']!r}"


def _flip(row: dict[str, Any]) -> str:
    accepted = "accepted for the next corpus" if row["accepted"] else "not accepted"
    return (
        f"refinement of {row['before_answer']!r} to {row['after_answer']!r} (flip {row['flip']}, "
        f"agreement {row['agreement']:.2f}), {accepted}"
    )
