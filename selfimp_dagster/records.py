"""The rows that stages hand to each other: fixed polars schemas and content-hash ids.

An id is a hash of what the row says, so the same row has the same id on every machine and in
every run, and a step that is run again can tell what it already has.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from selfimp_dagster.errors import SelfimpError

MESSAGES = pl.List(pl.Struct({"role": pl.String(), "content": pl.String}))

TASKS = pl.Schema(
    {
        "task_id": pl.String(),
        "pool": pl.String(),  # train, anchor, fresh, guard or twin; acquired: made in acquisition
        "skill": pl.String(),
        "suite": pl.String(),  # where the task comes from: a suite kind and its family or file
        "difficulty": pl.Float64(),
        "prompt": pl.String(),
        "chat": MESSAGES,  # the turns that ask it; null: the prompt, asked in the campaign's way
        "answer": pl.String(),  # null where only a program can judge, or nobody knows it
        "verifier": pl.String(),  # unverified: nobody checked the answer, so no response can be verified
        "entry": pl.String(),  # JSON that the verifier needs beyond the answer, or an unchecked one
        "source": pl.String(),  # generator, file, an acquisition method, or what made a twin
        "parent_ids": pl.List(pl.String()),  # the tasks, documents and samples that it was made from
        "generation_depth": pl.Int64(),  # 0: not written by a model; else one more than its deepest parent
    }
)

SAMPLES = pl.Schema(
    {
        "sample_id": pl.String(),
        "task_id": pl.String(),
        "round": pl.String(),
        "policy_hash": pl.String(),
        "generation": pl.String(),  # SE, R or I; D: a demonstration, the answer that came with the task
        "messages": MESSAGES,
        "response": pl.String(),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "sum_logprob": pl.Float64(),  # nats, untempered policy
        "mean_logprob": pl.Float64(),
        "finish_reason": pl.String(),  # stop or length
        "sampling": pl.String(),  # JSON of the sampling parameters
        "seed": pl.Int64(),
        "parent_sample_id": pl.String(),
    }
)

REWARDS = pl.Schema(
    {
        "sample_id": pl.String(),
        "reward": pl.String(),
        "kind": pl.String(),  # H, M or V
        "value": pl.Float64(),
        "confidence": pl.Float64(),
        "evidence": pl.String(),
    }
)

PROPOSALS = pl.Schema(
    {
        "proposal_id": pl.String(),
        "method": pl.String(),  # the acquisition method that made it
        "draft_id": pl.String(),  # the sample among the drafts that it was read from; null: none
        "prompt": pl.String(),  # what is asked; where nothing could be read, all that the model said
        "answer": pl.String(),  # the answer that the model claims; null: none
        "parent_ids": pl.List(pl.String()),  # what it was made from
        "generation_depth": pl.Int64(),
        "task_id": pl.String(),  # the task that it became; null: rejected
        "reason": pl.String(),  # why it was rejected, one of lifecycle.acquisition.proposals.Reason
        "detail": pl.String(),  # the numbers or words behind the reason
    }
)

DOCUMENTS = pl.Schema(
    {
        "document_id": pl.String(),
        "source": pl.String(),  # a file, or a module of Python's standard library
        "title": pl.String(),
        "text": pl.String(),
        "score": pl.Float64(),  # of the quality model; null: not scored
        "kept": pl.Boolean(),
        "reason": pl.String(),  # why it was kept or not
    }
)

JUDGE_PROBE = pl.Schema(
    {
        "reward": pl.String(),  # the reward whose judge was tried
        "task_id": pl.String(),  # a train task with a known answer
        "skill": pl.String(),
        "prompt": pl.String(),
        "response": pl.String(),  # the answer that the judge was shown
        "right": pl.Boolean(),  # whether it is the task's own answer, or a corrupted one
        "value": pl.Float64(),  # null where the judge gave no verdict that could be read
        "confidence": pl.Float64(),
        "accepted": pl.Boolean(),  # whether the value is at least the reward's `accept`; null without a value
        "evidence": pl.String(),
    }
)

SELECTION = pl.Schema(
    {
        "sample_id": pl.String(),
        "task_id": pl.String(),
        "position": pl.Int64(),  # place of the step in the chain
        "step": pl.String(),
        "score": pl.Float64(),
        "kept": pl.Boolean(),
        "reason": pl.String(),
        "evidence": pl.String(),  # JSON: what it duplicates, which evaluation item it matches
    }
)

TRAINING = pl.Schema(
    {
        "sample_id": pl.String(),  # null: not a sample, but the task's own answer
        "task_id": pl.String(),
        "skill": pl.String(),
        "update": pl.String(),  # the name of the method: sft, dpo, grpo ...
        "role": pl.String(),  # imitated, chosen, rejected, desirable, undesirable or scored
        "pair_id": pl.String(),  # what a chosen row shares with its rejected row; null where rows stand alone
        "weight": pl.Float64(),  # of the row in the loss; of a scored row its advantage
        "origin_round": pl.String(),  # the round whose corpus the row comes from
    }
)

TRAINING_CURVE = pl.Schema(
    {
        "step": pl.Int64(),  # counted on through the updates of a sequence
        "update": pl.String(),  # the name of the method
        "epoch": pl.Float64(),
        "loss": pl.Float64(),
        "learning_rate": pl.Float64(),
        "grad_norm": pl.Float64(),
    }
)

TRAINING_METRICS = pl.Schema(
    {
        "step": pl.Int64(),  # as in the curve
        "metric": pl.String(),  # reward_margin, pair_accuracy, kl, entropy, mean_reward ...
        "value": pl.Float64(),
    }
)

REFINEMENTS = pl.Schema(
    {
        "task_id": pl.String(),
        "skill": pl.String(),
        "before_sample_id": pl.String(),
        "after_sample_id": pl.String(),
        "before_answer": pl.String(),
        "after_answer": pl.String(),
        "before_score": pl.Float64(),
        "after_score": pl.Float64(),
        "flip": pl.String(),  # none, right->wrong or wrong->right
        "agreement": pl.Float64(),  # share of the votes for the answer after refinement
        "before_tokens": pl.Int64(),
        "after_tokens": pl.Int64(),
        "accepted": pl.Boolean(),  # verified, offered to the next round's corpus
    }
)

EVALUATIONS = pl.Schema(
    {
        "item_id": pl.String(),
        "suite": pl.String(),  # anchor, fresh or guard
        "skill": pl.String(),
        "arm": pl.String(),  # incumbent or candidate
        "policy_hash": pl.String(),
        "response": pl.String(),
        "score": pl.Float64(),
        "flags": pl.List(pl.String()),  # truncated, empty, verifier_error
        "evidence": pl.String(),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "fingerprint": pl.String(),
        "reused": pl.Boolean(),  # answered in an earlier round by the same weights under the same harness
    }
)

REWORDINGS = pl.Schema(
    {
        "item_id": pl.String(),  # an anchor item
        "skill": pl.String(),
        "arm": pl.String(),  # incumbent or candidate
        "policy_hash": pl.String(),
        "wording": pl.String(),  # plain: as the evaluation asks it
        "response": pl.String(),
        "answer": pl.String(),  # in the form in which equal answers are equal; null where there is none
        "score": pl.Float64(),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "fingerprint": pl.String(),
        "reused": pl.Boolean(),  # answered in an earlier round by the same weights under the same harness
    }
)

TWINS = pl.Schema(
    {
        "twin_id": pl.String(),  # a twin of an anchor item, asked in this round only
        "item_id": pl.String(),
        "skill": pl.String(),
        "transformation": pl.String(),  # what made the twin of the item
        "prompt": pl.String(),
        "answer": pl.String(),  # the expected one; null where only a program can judge
        "arm": pl.String(),  # incumbent or candidate
        "policy_hash": pl.String(),
        "item_response": pl.String(),
        "item_score": pl.Float64(),
        "response": pl.String(),  # to the twin
        "score": pl.Float64(),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "fingerprint": pl.String(),
    }
)

EPISODES = pl.Schema(
    {
        "episode_id": pl.String(),  # environment, parameters and seed: the same for both arms
        "environment": pl.String(),
        "parameters": pl.String(),  # JSON of all parameters of the environment
        "seed": pl.Int64(),
        "arm": pl.String(),  # incumbent or candidate
        "policy_hash": pl.String(),
        "turns": pl.Int64(),
        "outcome": pl.Float64(),  # from 0 to 1; null where the environment raised
        "process": pl.Float64(),  # mean progress of the turns, from 0 to 1; null where the environment raised
        "ending": pl.String(),  # done, turns, invalid, tokens or error
        "error": pl.String(),  # what the environment raised
        "messages": MESSAGES,  # user: the environment, assistant: the policy
        "steps": pl.List(
            pl.Struct(
                {
                    "valid": pl.Boolean,  # whether the action could be understood
                    "progress": pl.Float64,
                    "cut_off": pl.Boolean,  # the policy did not end its answer by itself
                    "prompt_tokens": pl.Int64,
                    "completion_tokens": pl.Int64,
                }
            )
        ),
        "prompt_tokens": pl.Int64(),  # of all turns
        "completion_tokens": pl.Int64(),
        "fingerprint": pl.String(),
        "reused": pl.Boolean(),  # played in an earlier round by the same weights under the same harness
    }
)

DIMENSIONS = pl.Schema(
    {
        "dimension": pl.String(),  # accuracy, stability, growth or safety
        "measure": pl.String(),
        "arm": pl.String(),  # incumbent or candidate
        "value": pl.Float64(),
        "low": pl.Float64(),  # the 95 % interval; null where the value has none
        "high": pl.Float64(),
        "n": pl.Int64(),  # items, tasks or rows that the value is over
        "note": pl.String(),  # what it says here, in a sentence
    }
)

WATCHED = pl.Schema(
    {
        "item_id": pl.String(),  # an anchor item, the same in every round of its anchor set
        "skill": pl.String(),
        "arm": pl.String(),  # incumbent or candidate
        "policy_hash": pl.String(),
        "draw": pl.Int64(),  # counted from 0; each has a seed of its own
        "response": pl.String(),
        "answer": pl.String(),  # in the form in which equal answers are equal; null where there is none
        "score": pl.Float64(),
        "mean_logprob": pl.Float64(),  # nats per token, untempered policy
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "fingerprint": pl.String(),
        "reused": pl.Boolean(),  # drawn in an earlier round by the same weights under the same harness
    }
)

REWARDED = pl.Schema(
    {
        "task_id": pl.String(),  # a train task, the same in every round
        "skill": pl.String(),
        "arm": pl.String(),  # incumbent or candidate
        "policy_hash": pl.String(),
        "reward": pl.String(),  # a reward of the recipe
        "value": pl.Float64(),  # null where it says nothing of the answer
        "counted": pl.Float64(),  # within 0 and 1: whether a judge accepts it, or the value held there
        "score": pl.Float64(),  # of the task's verifier
        "response": pl.String(),
        "completion_tokens": pl.Int64(),
        "fingerprint": pl.String(),
    }
)

MONITORS = pl.Schema(
    {
        "monitor": pl.String(),
        "state": pl.String(),  # quiet, alarm, not measured or not applicable
        "follows": pl.String(),  # what an alarm of it does: warn, reject, stop or quarantine
        "sentence": pl.String(),
        "value": pl.Float64(),  # of the statistic; null where it was not measured
        "low": pl.Float64(),  # its interval at the level of the monitor in the round
        "high": pl.Float64(),
        "threshold": pl.Float64(),  # an alarm: the whole interval lies beyond
        "level": pl.Float64(),  # chance of a false alarm in this round at most; null: chance plays no part
        "n": pl.Int64(),  # what the value is over
        "action": pl.String(),  # what a person can do
    }
)


def content_id(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts' canonical JSON."""
    return content_hash(list(parts))[:16]


def canonical_json(value: Any) -> str:
    """The one way to write a value as JSON: keys sorted, no spaces, no line breaks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed that depends on nothing but the parts."""
    return int(content_hash(list(parts))[:16], 16) >> 1


def task_id(skill: str, prompt: str, answer: str | None) -> str:
    """The id of a task: what is asked, what is expected, and which skill it counts for."""
    return content_id("task", skill, prompt, answer)


def sample_id(task: str, policy_hash: str, messages: Any, sampling: Mapping[str, Any], seed: int) -> str:
    """The id of a sample, known before it is drawn: everything that its response depends on."""
    return content_id("sample", task, policy_hash, messages, dict(sampling), seed)


def frame(rows: Iterable[Mapping[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """Rows as a frame of exactly this schema."""
    return pl.DataFrame(list(rows), schema=schema)


def check_schema(table: pl.DataFrame, schema: pl.Schema, where: str) -> pl.DataFrame:
    """The table unchanged.

    Raises:
        SelfimpError: a column is missing, unknown or of another type.
    """
    actual = dict(table.schema)
    wrong = [f"{name} is missing" for name in schema if name not in actual]
    wrong += [f"{name} is unknown" for name in actual if name not in schema]
    wrong += [
        f"{name} is {actual[name]}, not {schema[name]}"
        for name in schema
        if name in actual and actual[name] != schema[name]
    ]
    if wrong:
        raise SelfimpError(
            f"columns do not fit: {'; '.join(wrong)}",
            where=where,
            fix="materialize the asset again with this version of selfimp_dagster",
        )
    return table
