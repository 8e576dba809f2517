"""Row lineage: what one task, sample or evaluation item came from, and what came of it."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import ASSET as EVALUATION
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lineage.inventory import Gap, Inventory, take_inventory, verified
from selfimp_dagster.lineage.row_index import Mention, RowIndex
from selfimp_dagster.lineage.views import Descent, descents, quoted, table_views
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

Row = dict[str, Any]

_KINDS = {
    "samples": "sample",
    "refined_samples": "sample",
    "training": "sample",
    "copies": "sample",
    "tasks": "task",
    "refined_tasks": "task",
    "evaluation_items": "evaluation item",
    "contamination": "evaluation item",
}
"""What an id is that the row index has in these views."""

_SHORTEST_PREFIX = 6
_LISTED = 5  # ids or rounds that a sentence names; the rest are counted
_HELP = {
    "SE": "unaided",
    "R": "with the right answer shown",
    "I": "interacting",
    "D": "a demonstration, not the policy's",
}


@dataclass(frozen=True)
class Event:
    """One thing that happened to a row: in which round, in which stage's artifact, in words and as data.

    `kind` is what happened: task, sample, ancestry, reward, refinement, selection, copy, descendant,
    training, verdict, answers, descent, item, answer, rewording, or decontamination. `fields` is the row
    that says so.
    """

    round: str
    stage: str
    kind: str
    what: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Trace:
    """The events of one row, by round and stage, and what the store lacks of the campaigns that it is in.

    `kind` is sample, task or evaluation item; a task that is also an evaluation item is both.
    """

    kind: str
    id: str
    events: tuple[Event, ...]
    gaps: tuple[Gap, ...]

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def trace(store: ArtifactStore, id_: str, inventory: Inventory | None = None) -> Trace:
    """The history of the row with this id, or with the only id that begins so.

    A training row has the id of its sample. Rounds that are not finished are told as far as they are, and a
    row whose own round is gone by what other rounds say of it.

    Raises:
        SelfimpError: no row has such an id, or several have.
    """
    inventory = inventory or take_inventory(store)
    try:
        return _trace(store, id_, inventory)
    except duckdb.Error:
        checked = verified(inventory)
        if checked.gaps == inventory.gaps:
            raise
        return _trace(store, id_, checked)


def _trace(store: ArtifactStore, id_: str, inventory: Inventory) -> Trace:
    index = RowIndex(store, inventory)
    row, kinds = _find(index, inventory, id_)
    story = _Story(index, inventory, row)
    events = sorted(story.tell(kinds), key=lambda event: (event.round, STAGES.index(event.stage)))
    campaigns = {RoundKey.parse(event.round).campaign for event in events}
    gaps = tuple(gap for gap in inventory.gaps if RoundKey.parse(gap.round).campaign in campaigns)
    return Trace(" and ".join(kinds), row, tuple(events), gaps)


def _find(index: RowIndex, inventory: Inventory, prefix: str) -> tuple[str, list[str]]:
    """The id of the one row that is meant, and what it is the id of."""
    where = f"id {prefix!r}"
    if len(prefix) < _SHORTEST_PREFIX:
        raise SelfimpError(
            "too short to mean one row", where=where, fix=f"give at least {_SHORTEST_PREFIX} characters"
        )
    kinds: dict[str, set[str]] = defaultdict(set)
    for mention in index.starting_with(prefix):
        if mention.view in _KINDS:
            kinds[mention.id].add(_KINDS[mention.view])
    if not kinds:
        unread = len(inventory.damage)
        raise SelfimpError(
            "no task, sample or evaluation item in the store has this id"
            + (f"; what is missing from the store may have it ({unread} gaps)" if unread else ""),
            where=where,
            fix="look ids up with `selfimp sql`, for example in the views samples and evaluation_items"
            + ("; `selfimp status` names the gaps" if unread else ""),
        )
    if len(kinds) > 1:
        named = _listed([f"{' and '.join(sorted(kinds[id_]))} {id_}" for id_ in sorted(kinds)])
        raise SelfimpError(f"begins several ids: {named}", where=where, fix="give more of it")
    (id_,) = kinds
    return id_, sorted(kinds[id_], reverse=True)


class _Story:
    """The events of one row. Its views hold the rounds that mention the row, and no other."""

    def __init__(self, index: RowIndex, inventory: Inventory, id_: str) -> None:
        self._index, self._inventory, self._id = index, inventory, id_
        self._rounds: set[str] = set()
        self._mentions = self._cover([id_])
        self._started: dict[str, list[str]] = defaultdict(
            list
        )  # weights to the rounds that started from them
        for key, facts in inventory.facts("incumbent_policy"):
            self._started[facts["policy_hash"]].append(str(key))
        self._descents = descents(inventory)

    def _cover(self, ids: Collection[str]) -> list[Mention]:
        """The mentions of these ids; the views hold the rounds of all of them from now on."""
        mentions = self._index.of(ids)
        rounds = self._rounds | {mention.in_round for mention in mentions}
        if rounds != self._rounds or not rounds:
            self._rounds = rounds
            self._connection = table_views(self._inventory.of(rounds))
        return mentions

    def _rounds_with(self, view: str) -> list[str]:
        return [mention.in_round for mention in self._mentions if mention.view == view]

    def tell(self, kinds: Collection[str]) -> Iterator[Event]:
        tell = {"sample": self._of_sample, "task": self._of_task, "evaluation item": self._of_item}
        for kind in kinds:
            yield from tell[kind]()

    def _of_sample(self) -> Iterator[Event]:
        tasks: dict[str, Row] = {}
        for stage, prefix in (("refined_outputs", "refined_"), ("generated_corpus", "")):
            for sample in self._rows(
                f"SELECT * FROM {prefix}samples WHERE sample_id = ? ORDER BY in_round", self._id
            ):
                for task in self._rows(
                    f"SELECT * FROM {prefix}tasks WHERE task_id = ? AND in_round = ?",
                    sample["task_id"],
                    sample["in_round"],
                ):
                    if task["task_id"] not in tasks:
                        yield _task_event(task, stage, [sample["in_round"]])
                        yield self._ancestry(sample, task, stage)
                    tasks[task["task_id"]] = task
                yield self._sample_event(sample, stage)
            for reward in self._rows(
                f"SELECT * FROM {prefix}rewards WHERE sample_id = ? ORDER BY ALL", self._id
            ):
                yield _event(
                    reward,
                    stage,
                    "reward",
                    f"reward {reward['reward']} ({reward['kind']}) = {reward['value']:g}: "
                    f"{reward['evidence']}",
                )
        yield from self._refinements("? IN (before_sample_id, after_sample_id)")
        for step in self._rows(
            "SELECT * FROM selection WHERE sample_id = ? ORDER BY in_round, position", self._id
        ):
            fate = "kept" if step["kept"] else "dropped"
            yield _event(
                step,
                "selected_subset",
                "selection",
                f"{step['step']}: {fate}, {step['reason']}",
                evidence=_read(step),
            )
        for copy in self._dropped_for("copies", "duplicate_of"):
            yield _event(
                copy,
                "selected_subset",
                "copy",
                f"sample {copy['sample_id']} was dropped by {copy['step']} in its favour",
            )
        yield from self._descendants()
        yield from self._training([self._id], {task["skill"] for task in tasks.values()})

    def _of_task(self) -> Iterator[Event]:
        skills, samples = set(), []
        for stage, prefix in (("refined_outputs", "refined_"), ("generated_corpus", "")):
            for task in self._rows(
                f"SELECT * FROM {prefix}tasks WHERE task_id = ? ORDER BY in_round LIMIT 1", self._id
            ):
                skills.add(task["skill"])
                yield _task_event(task, stage, self._rounds_with(f"{prefix}tasks"))
            for sample in self._rows(
                f"SELECT s.*, (SELECT string_agg(format('{{}} {{:g}}', reward, value), ', ' ORDER BY reward) "
                f"FROM {prefix}rewards r WHERE (r.sample_id, r.in_round) = (s.sample_id, s.in_round)) "
                f"AS judged FROM {prefix}samples s WHERE s.task_id = ? ORDER BY s.in_round, sample_id",
                self._id,
            ):
                samples.append(sample["sample_id"])
                judged = f"rewards: {sample['judged']}" if sample["judged"] else "not judged"
                yield _event(
                    sample,
                    stage,
                    "sample",
                    f"sample {sample['sample_id']} ({_HELP[sample['generation']]}), {judged}: "
                    f"{sample['response']!r}",
                )
        yield from self._refinements("task_id = ?")
        for fate in self._rows(
            "SELECT in_round, sample_id, bool_and(kept) AS kept, arg_max(step, position) AS step, "
            "arg_max(reason, position) AS reason, arg_max(evidence, position) AS evidence "
            "FROM selection WHERE task_id = ? GROUP BY ALL ORDER BY ALL",
            self._id,
        ):
            what = "was selected" if fate["kept"] else f"was dropped by {fate['step']}: {fate['reason']}"
            yield _event(
                fate,
                "selected_subset",
                "selection",
                f"sample {fate['sample_id']} {what}",
                evidence=_read(fate),
            )
        yield from self._descendants()
        self._cover(samples)
        yield from self._training(samples, skills)

    def _of_item(self) -> Iterator[Event]:
        rounds = self._rounds_with("evaluation_items")
        for item in self._rows(
            "SELECT * FROM evaluation_items WHERE task_id = ? ORDER BY in_round LIMIT 1", self._id
        ):
            yield _event(
                item,
                EVALUATION,
                "item",
                f"{item['pool']} item of {_asked(item)}; asked in {_rounds_named(rounds)}",
                rounds=rounds,
            )
        before: dict[tuple[str, str], float] = {}
        for answer in self._rows(
            "SELECT * FROM evaluations WHERE item_id = ? ORDER BY in_round, suite, arm DESC", self._id
        ):
            place = (answer["in_round"], answer["suite"])
            change = None
            if answer["arm"] == "incumbent":
                before[place] = answer["score"]
            elif place in before:
                change = _change(before[place], answer["score"])
            reused = ["taken from an earlier round"] if answer["reused"] else []
            notes = ", ".join([*([change] if change else []), *answer["flags"], *reused])
            yield _event(
                answer,
                EVALUATION,
                "answer",
                f"{answer['arm']} ({self._weights(answer['policy_hash'])}) scored {answer['score']:g} "
                f"in {answer['suite']}: {answer['response']!r}" + (f" ({notes})" if notes else ""),
                change=change,
            )
        for asked in self._rows(
            "SELECT * FROM rewordings WHERE item_id = ? ORDER BY in_round, arm DESC, wording", self._id
        ):
            yield _event(
                asked,
                EVALUATION,
                "rewording",
                f"{asked['arm']} scored {asked['score']:g} in the wording {asked['wording']}: "
                f"{asked['response']!r}",
            )
        for asked in self._rows(
            "SELECT * FROM twins WHERE item_id = ? ORDER BY in_round, arm DESC, twin_id", self._id
        ):
            yield _event(
                asked,
                EVALUATION,
                "twin",
                f"{asked['arm']} scored {asked['score']:g} on its twin {asked['twin_id']} "
                f"({asked['transformation']}): {asked['response']!r}",
            )
        for row in self._dropped_for("contamination", "item_id"):
            yield _event(
                row,
                "selected_subset",
                "decontamination",
                f"sample {row['sample_id']} was dropped because of this item: {row['reason']}",
            )

    def _sample_event(self, sample: Row, stage: str) -> Event:
        if sample["round"] != sample["in_round"]:
            what = f"taken into the corpus from what refined_outputs of {sample['round']} accepted"
        else:
            what = (
                f"drawn from {self._weights(sample['policy_hash'])} ({_HELP[sample['generation']]}, "
                f"{sample['sampling']}, seed {sample['seed']}), asked "
                f"{sample['messages'][-1]['content']!r}: {sample['response']!r}, "
                f"{sample['mean_logprob']:.2f} nats a token, ended by {sample['finish_reason']}"
            )
        return _event(sample, stage, "sample", what)

    def _ancestry(self, sample: Row, task: Row, stage: str) -> Event:
        """How much of what a sample rests on was made by a model."""
        parents = self._parents(sample)
        tasks = self._task_ancestors(task)
        updates = self._descents.get(sample["policy_hash"], Descent(None, None)).updates
        if updates is None:
            line = "weights whose line from the base model is broken, since a round between is gone"
        elif updates:
            plural = "s" if len(updates) > 1 else ""
            line = f"weights {len(updates)} update{plural} from the base model ({_rounds_named(updates)})"
        else:
            line = "the base model itself"
        depth = 1 + len(parents) + task["generation_depth"]
        written = (
            f"of a task written from {_listed(tasks)} (depth {task['generation_depth']})"
            if tasks
            else "of a task that no model wrote"
            if task["generation_depth"] == 0
            else f"of a task of depth {task['generation_depth']}"
        )
        after = f", after {_listed(parents)}" if parents else ""
        return _event(
            {"in_round": sample["in_round"]},
            stage,
            "ancestry",
            f"synthetic depth {depth}: drawn from {line}{after}, {written}",
            depth=depth,
            updates=None if updates is None else list(updates),
            parent_samples=parents,
            parent_tasks=tasks,
        )

    def _parents(self, sample: Row) -> list[str]:
        """The samples that this one was made from, nearest first."""
        line: list[str] = []
        parent = sample["parent_sample_id"]
        while parent is not None and parent not in line:
            line.append(parent)
            self._cover([parent])
            found = self._rows(
                "SELECT parent_sample_id FROM samples WHERE sample_id = $1 UNION ALL "
                "SELECT parent_sample_id FROM refined_samples WHERE sample_id = $1",
                parent,
            )
            parent = found[0]["parent_sample_id"] if found else None
        return line

    def _task_ancestors(self, task: Row) -> list[str]:
        """The tasks or samples that a task was written from, and those that these were written from."""
        line: list[str] = []
        open_ = list(task["parent_ids"])
        while open_:
            parent = open_.pop(0)
            if parent not in line:
                line.append(parent)
                self._cover([parent])
                for row in self._rows("SELECT parent_ids FROM tasks WHERE task_id = ? LIMIT 1", parent):
                    open_ += row["parent_ids"]
        return line

    def _refinements(self, condition: str) -> Iterator[Event]:
        for row in self._rows(f"SELECT * FROM refinements WHERE {condition} ORDER BY in_round", self._id):
            places = (("before_sample_id", "the greedy answer"), ("after_sample_id", "the refined answer"))
            roles = [role for column, role in places if row[column] == self._id]
            role = f"{' and '.join(roles)}; " if roles else ""
            accepted = "accepted for the next corpus" if row["accepted"] else "not accepted"
            yield _event(
                row,
                "refined_outputs",
                "refinement",
                f"{role}refinement of {row['before_answer']!r} to {row['after_answer']!r} "
                f"(flip {row['flip']}, agreement {row['agreement']:.2f}), {accepted}",
            )

    def _dropped_for(self, view: str, field: str) -> Iterator[Row]:
        """Selection steps that dropped a row because of this one, named so in their evidence."""
        for row in self._rows(
            f"SELECT * FROM selection WHERE in_round IN ({quoted(self._rounds_with(view))}) AND NOT kept "
            "AND contains(evidence, ?) ORDER BY in_round, sample_id",
            self._id,
        ):
            evidence = _read(row)
            if evidence.get(field) == self._id:
                yield {**row, "evidence": evidence}

    def _descendants(self) -> Iterator[Event]:
        """Tasks and samples that were made from this row."""
        if not self._rounds_with("descendants"):
            return
        for kind, view, stage, condition in (
            ("sample", "samples", "generated_corpus", "parent_sample_id = ?"),
            ("sample", "refined_samples", "refined_outputs", "parent_sample_id = ?"),
            ("task", "tasks", "generated_corpus", "list_contains(parent_ids, ?)"),
        ):
            for row in self._rows(
                f"SELECT * FROM {view} WHERE {condition} ORDER BY in_round, {kind}_id", self._id
            ):
                yield _event(row, stage, "descendant", f"{kind} {row[f'{kind}_id']} was made from it")

    def _training(self, samples: list[str], skills: Iterable[str]) -> Iterator[Event]:
        """The updates that used these samples, and what came of the checkpoints."""
        rows = self._rows(
            f"SELECT * FROM training WHERE sample_id IN ({quoted(samples)}) ORDER BY in_round, sample_id"
        )
        for row in rows:
            again = "" if row["origin_round"] == row["in_round"] else f", replayed from {row['origin_round']}"
            which = "" if samples == [self._id] else f"sample {row['sample_id']} "
            yield _event(
                row,
                "checkpoint",
                "training",
                f"{which}trained on in the update {row['update']} with weight {row['weight']:g}{again}",
            )
        rounds = sorted({row["in_round"] for row in rows})
        yield from self._verdicts(rounds)
        yield from self._answers(rounds, skills)
        yield from self._descent(rounds)

    def _verdicts(self, rounds: Sequence[str]) -> Iterator[Event]:
        for round_ in rounds:
            held = self._inventory.artifacts[RoundKey.parse(round_)]
            weights = held["checkpoint"].facts["policy_hash"]
            report = held.get(EVALUATION)
            if report is None or report.folder / "report.json" in self._inventory.missing:
                continue
            verdict = report.json("report")["verdict"]
            yield _event(
                {**verdict, "in_round": round_},
                EVALUATION,
                "verdict",
                f"{' '.join(verdict['reasons'])} (checkpoint {weights[:16]})",
                checkpoint_hash=weights,
            )

    def _answers(self, rounds: Sequence[str], skills: Iterable[str]) -> Iterator[Event]:
        """How the checkpoints answered the items of the same skill, and those of the guard skills."""
        for row in self._rows(
            "WITH pairs AS (SELECT in_round, suite, skill, item_id, "
            "max(score) FILTER (arm = 'incumbent') AS before, max(score) FILTER (arm = 'candidate') AS after "
            f"FROM evaluations WHERE in_round IN ({quoted(rounds)}) AND (skill IN ({quoted(skills)}) "
            "OR suite = 'guard') "
            "GROUP BY ALL) "
            'SELECT in_round, suite, skill, count(*) AS items, count(*) FILTER (after >= 1) AS "right", '
            "count(*) FILTER (before >= 1) AS right_before, count(*) FILTER (after > before) AS won, "
            "count(*) FILTER (after < before) AS lost FROM pairs GROUP BY ALL ORDER BY ALL"
        ):
            yield _event(
                row,
                EVALUATION,
                "answers",
                f"the checkpoint has {row['right']} of {row['items']} {row['suite']} items of {row['skill']} "
                f"right, the incumbent had {row['right_before']}: {row['won']} won, {row['lost']} lost",
            )

    def _descent(self, rounds: Sequence[str]) -> Iterator[Event]:
        """Whether the checkpoints became incumbents, and how much descends from them."""
        candidates = {str(key): facts["policy_hash"] for key, facts in self._inventory.facts("checkpoint")}
        samples = {str(key): facts["samples"] for key, facts in self._inventory.facts("generated_corpus")}
        descending: Counter[str] = Counter()
        for later in reversed(list(candidates)):  # whatever descends from a round comes after it
            started = self._started[candidates[later]]
            descending[later] = len(started) + sum(descending[child] for child in started)
        for round_ in rounds:
            started = self._started[candidates[round_]]
            drawn = sum(samples.get(child, 0) for child in started)
            descend = (
                "1 round descends" if descending[round_] == 1 else f"{descending[round_]} rounds descend"
            )
            what = (
                f"became the incumbent of {_rounds_named(started)}, whose corpora have {drawn} samples; "
                f"{descend} from it"
                if started
                else "no round has started from this checkpoint"
            )
            yield _event(
                {"in_round": round_},
                EVALUATION,
                "descent",
                what,
                incumbent_of=started,
                samples_drawn=drawn,
                rounds_descending=descending[round_],
            )

    def _weights(self, policy_hash: str) -> str:
        descent = self._descents.get(policy_hash)
        if descent is None:
            return f"weights {policy_hash[:16]}, of which the store has no record"
        if descent.trained_in is None:
            return f"the base model {policy_hash[:16]}"
        return f"the checkpoint of {descent.trained_in}"

    def _rows(self, query: str, *values: str) -> list[Row]:
        result = self._connection.execute(query, list(values))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _event(row: Row, stage: str, kind: str, what: str, **more: Any) -> Event:
    """An event whose fields are the columns of a row, with some added or replaced."""
    fields = {name: value for name, value in row.items() if name != "in_round"}
    return Event(row["in_round"], stage, kind, what, {**fields, **more})


def _task_event(task: Row, stage: str, rounds: Sequence[str]) -> Event:
    depth = f"synthetic depth {task['generation_depth']}"
    made = f", made from {_listed(task['parent_ids'])}" if task["parent_ids"] else ""
    drawn = f"; drawn in {_rounds_named(rounds)}" if len(rounds) > 1 else ""
    return _event(
        {**task, "in_round": rounds[0]},
        stage,
        "task",
        f"task {task['task_id']} of {_asked(task)}; {depth}{made}{drawn}",
        rounds=list(rounds),
    )


def _asked(task: Row) -> str:
    return f"{task['skill']} ({task['suite']}), expecting {task['answer']!r}: {task['prompt']!r}"


def _change(before: float, after: float) -> str | None:
    return None if before == after else "won" if after > before else "lost"


def _read(step: Row) -> dict[str, Any]:
    """The evidence of a selection step: what it duplicates, which evaluation item it matches."""
    try:
        evidence = json.loads(step["evidence"])
    except ValueError:
        return {}
    return evidence if isinstance(evidence, dict) else {}


def _rounds_named(rounds: Sequence[str]) -> str:
    if len(rounds) <= _LISTED:
        return ", ".join(rounds)
    return f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
