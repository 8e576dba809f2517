"""Tries a model as a judge: every way of judging, on the gold probe of the campaign `arithmetic`.

    python -m benchmarks.judges [--model embedded:smollm2-135m-instruct] [--tasks 32] [--cache FOLDER]

Prints precision, recall, share of answers without a verdict and position bias with 95 % intervals, and what
the judging cost. What was asked is kept in the cache: a run that was interrupted goes on.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.engines.chat import EngineChat
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.lifecycle.evaluation.statistics import Estimate
from selfimp_dagster.lifecycle.judges import DurableJudge
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeSummary, judge_records, probe_judges
from selfimp_dagster.lifecycle.rewards.judging import Reward
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.progress import TerminalProgress
from selfimp_dagster.records import REWARDS, SAMPLES, derive_seed
from selfimp_dagster.registry import find_method
from selfimp_dagster.tasks.pools import draw_pool

CAMPAIGN = Path(__file__).parents[1] / "campaigns/arithmetic.yaml"


@dataclass(frozen=True)
class Trial:
    """One way of judging."""

    method: str
    reading: str

    def reward(self, tasks: int) -> Reward:
        found = find_method("reward", self.method)
        return Reward(found, found.parameters.model_validate({"reading": self.reading, "probe": tasks}))


TRIALS = [
    Trial(method, reading) for method in ("judge", "pairwise_judge") for reading in ("words", "probabilities")
]


def shown(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="embedded:smollm2-135m-instruct")
    arguments.add_argument("--tasks", type=int, default=32)
    arguments.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "selfimp-judges")
    given = arguments.parse_args()
    campaign = load_campaign(CAMPAIGN)
    tasks = draw_pool(
        "train",
        campaign.skills,
        given.tasks,
        seed=derive_seed("benchmark of judges"),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=CAMPAIGN.parent,
    ).tasks
    folder = resolve_model(given.model, given.cache / "models")
    chat = EngineChat(EnginePool().engine(folder, policy_hash(folder)))
    table = Table(
        "method", "reading", "precision", "recall", "specificity", "no verdict", "bias", "tokens", "s"
    )
    for trial in TRIALS:
        judge = DurableJudge(chat, given.cache / "judgements", TerminalProgress())
        rewards = [trial.reward(given.tasks)]
        started = time.monotonic()
        probe = probe_judges(rewards, tasks, lambda source, judge=judge: judge, seed=0)
        seconds = time.monotonic() - started
        (record,) = judge_records(rewards, probe, lambda source, judge=judge: judge)
        summary = JudgeSummary.of(record, probe, REWARDS.to_frame(), SAMPLES.to_frame())
        table.add_row(
            trial.method,
            trial.reading,
            shown(summary.precision),
            shown(summary.recall),
            shown(summary.specificity),
            f"{summary.silent} of {probe.height}",
            shown(summary.position_bias),
            f"{judge.tokens:,}",
            f"{seconds:.0f}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
