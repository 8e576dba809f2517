"""Runs a failure in a real campaign: the same job, assets and checks as any other."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lab.failures import Failure, Site
from selfimp_dagster.lab.grounds import SCHOOL, school
from selfimp_dagster.lab.outcome import Outcome, RoundOutcome
from selfimp_dagster.lab.truth import solve
from selfimp_dagster.lifecycle.evaluation.report import read_monitors, read_report
from selfimp_dagster.records import EVALUATIONS, SAMPLES, TASKS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import open_instance, run_round
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore


@dataclass(frozen=True)
class Lab:
    """The folder of a lab: the student, what came of all runs, and of each run an installation of its own.

    Runs are apart because a store with a faulty part's name in it can only be read while that part is lent.
    """

    home: Path

    @property
    def outcomes(self) -> Path:
        """The file that every run adds a line to."""
        return self.home / "outcomes.jsonl"

    def installation(self, name: str) -> Settings:
        """The installation of one run, or of the school."""
        home = self.home.resolve() / name
        (home / "campaigns").mkdir(parents=True, exist_ok=True)
        return Settings(home=home, campaigns=home / "campaigns")

    def new_name(self, wanted: str) -> str:
        """The wanted name of a run, or with the first number that no run has; its folder is made."""
        self.home.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            name = wanted if number == 1 else f"{wanted}-{number}"
            with suppress(FileExistsError):
                (self.home / name).mkdir()
                return name
            number += 1


def run_failure(
    failure: Failure,
    parameters: BaseModel,
    lab: Lab,
    *,
    seed: int = 0,
    rounds: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Runs a campaign that has this failure until it is caught, at most so many rounds.

    A campaign without a failure runs all of its rounds.

    Args:
        rounds: None: as many as the failure may take.
        tell: is told what is being done, line by line.

    Raises:
        SelfimpError: there is no student and none can be made.
    """
    student = make_student(lab, tell)
    started = time.monotonic()
    name = lab.new_name(f"{failure.name}-s{seed}")
    where = lab.installation(name)
    site = Site(name, student, where.campaigns, seed)
    found: list[RoundOutcome] = []
    with open_instance(where.home) as instance, failure.at(site, parameters) as campaign:
        last = rounds or failure.rounds
        _write_campaign(where, planned(campaign, last))
        for number in range(last):
            site.round = number
            found.append(_run_round(instance, where, RoundKey(name, number)))
            tell(f"{name}/{number:04}: {', '.join(found[-1].signals) or 'quiet'}")
            if found[-1].ended or set(failure.expected) & set(found[-1].signals):
                break
    return Outcome(
        failure=failure.name,
        parameters=parameters.model_dump(mode="json"),
        seed=seed,
        campaign=name,
        expected=failure.expected,
        rounds=tuple(found),
        seconds=time.monotonic() - started,
    )


def planned(campaign: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The campaign file with a plan of at least so many rounds: monitors spend their error over the plan."""
    plan = campaign["continuation"]
    return {**campaign, "continuation": {**plan, "rounds": max(plan["rounds"], rounds)}}


def make_student(lab: Lab, tell: Callable[[str], None] = lambda line: None, seed: int = 0) -> Path:
    """The folder of the weights that all campaigns of the lab start from, trained when first needed."""
    where = lab.installation(SCHOOL)
    key, store = RoundKey(SCHOOL, 0), ArtifactStore.at(where)
    if not store.has(key, "eval_report"):
        tell("The student goes to school: once, for some minutes.")
        _write_campaign(where, school(seed))
        with open_instance(where.home) as instance:
            run_round(instance, WorkbenchResource.at(where), key)
    return store.open(key, "checkpoint").folder / "model"


def _run_round(instance: dg.DagsterInstance, where: Settings, key: RoundKey) -> RoundOutcome:
    store = ArtifactStore.at(where)
    ended, why = None, ""
    try:
        run_round(instance, WorkbenchResource.at(where), key)
    except SelfimpError as error:
        if error.what == "interrupted":
            raise
        ended, why = _ended_by(error, key), error.what
    samples = sum(
        store.open(key, asset).table("samples", SAMPLES).height
        for asset in ("generated_corpus", "refined_outputs")
        if store.has(key, asset)
    )
    if ended or not store.has(key, "eval_report"):
        return RoundOutcome(number=key.number, samples=samples, ended=ended, why=why)
    report = store.open(key, "eval_report")
    truth = true_accuracy(report.table("evaluations", EVALUATIONS), report.table("items", TASKS))
    found = read_report(store, key)
    anchor = found.score("anchor", "candidate")
    return RoundOutcome(
        number=key.number,
        samples=samples,
        incumbent=truth["incumbent"],
        candidate=truth["candidate"],
        reported=anchor.accuracy if anchor else None,
        promoted=found.verdict.promoted,
        alarms={r.monitor: r.sentence for r in read_monitors(store, key) if r.is_alarm},
    )


def _ended_by(error: SelfimpError, key: RoundKey) -> str:
    """What ended a round: the budget, the check that failed, or the stage that did."""
    if error.what.startswith("the budget is spent"):
        return "budget"
    # A check names itself in the place where it found something.
    return error.where.rpartition("check ")[2].removeprefix(f"{key} ")


def true_accuracy(evaluations: pl.DataFrame, items: pl.DataFrame) -> dict[str, float]:
    """The share of fresh items that each arm answers right, by the lab's own solver."""
    prompts = items.select(item_id="task_id", prompt="prompt").unique("item_id")
    fresh = evaluations.filter(pl.col("suite") == "fresh").join(prompts, on="item_id")
    right = [
        response.strip() == solve(prompt)
        for response, prompt in fresh.select("response", "prompt").iter_rows()
    ]
    shares = fresh.select("arm", right=pl.Series(right)).group_by("arm").agg(pl.col("right").mean())
    return dict(shares.iter_rows())


def _write_campaign(where: Settings, campaign: dict[str, Any]) -> None:
    path = where.campaigns / f"{campaign['name']}.yaml"
    path.write_text(yaml.safe_dump(campaign, sort_keys=False), encoding="utf-8")
