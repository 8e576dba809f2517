"""Which engines of a round are held against plain transformers, and on which prompts."""

from collections.abc import Iterable
from pathlib import Path

from selfimp_dagster.engines.parity import Parity, measure_parity
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights, read_policy
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.loading import DtypeName
from selfimp_dagster.records import derive_seed
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.tasks.pools import draw_pool

_TASKS = 4
_MOST_TOKENS = 12  # of an answer: some fifty tokens in all tell rounding from error


def incumbent_parity(bench: Workbench, key: RoundKey) -> list[Parity]:
    """The engine that will sample the round's corpus from the incumbent."""
    policy, _ = read_policy(bench.store, key)
    return _parities(bench, policy, incumbent_weights(bench, policy), policy.policy_hash, [None])


def candidate_parity(bench: Workbench, key: RoundKey) -> list[Parity]:
    """The engines that will refine with the candidate and evaluate it, one if their numerics are the same."""
    policy, _ = read_policy(bench.store, key)
    checkpoint = bench.store.open(key, "checkpoint")
    numerics = (None, policy.campaign.evaluation.dtype)
    return _parities(bench, policy, checkpoint.folder / "model", checkpoint.facts["policy_hash"], numerics)


def _parities(
    bench: Workbench, policy: Policy, folder: Path, weights: str, numerics: Iterable[DtypeName | None]
) -> list[Parity]:
    """Each engine once, on train tasks in the campaign's own words."""
    campaign = policy.campaign
    tasks = draw_pool(
        "train",
        campaign.skills,
        _TASKS,
        seed=derive_seed(policy.seed, "parity"),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=bench.campaigns,
    ).tasks
    chats = [campaign.messages(task.prompt) for task in tasks]
    most = min(_MOST_TOKENS, campaign.evaluation.max_new_tokens)
    engines = {id(engine): engine for engine in (bench.engines.engine(folder, weights, d) for d in numerics)}
    return [measure_parity(engine, folder, chats, max_new_tokens=most) for engine in engines.values()]
