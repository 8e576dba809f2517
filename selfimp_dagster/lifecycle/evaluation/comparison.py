"""Two rounds side by side: their candidates on the same items, and what differs in how they were made."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.campaign import Recipe
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import sentences
from selfimp_dagster.lifecycle.evaluation.report import ASSET, read_report
from selfimp_dagster.lifecycle.evaluation.scores import item_weights, pair_arms, paired_counts
from selfimp_dagster.lifecycle.evaluation.statistics import mcnemar_exact, paired_difference_interval
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.records import EVALUATIONS, TRAINING
from selfimp_dagster.registry import CHAINS, PLACES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

_STAGES = ("incumbent_policy", "generated_corpus", "selected_subset", "checkpoint", "refined_outputs", ASSET)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkillDifference(_Frozen):
    """Both candidates on the items of a skill that both answered; the difference is second minus first."""

    suite: str
    skill: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float


class Difference(_Frozen):
    """A field that is not the same in both rounds, and its two values."""

    field: str
    first: str
    second: str


class SkillRows(_Frozen):
    """How many rows of a skill were trained on in both rounds, and in one of them alone."""

    skill: str
    both: int
    first: int
    second: int


class Comparison(_Frozen):
    """Two rounds. Rates are shares, intervals have a confidence of 95 %, counts are of items or rows.

    `gain` is the second candidate's accuracy less the first's on the first round's mix of skills, over
    `n` anchor and fresh items; `p_value` that of the exact McNemar test on the items won and lost, for
    these two rounds alone: whoever compares many pairs must correct for it. `fork` is the last round that
    is on the lines of both; `recipe` what differs in the recipes, defaults filled in; `made` what else
    differs in campaign, start, configuration of single runs and code.
    """

    first: str
    second: str
    n: int
    wins: int
    losses: int
    gain: float
    low: float
    high: float
    p_value: float
    skills: tuple[SkillDifference, ...]
    fork: str | None
    recipe: tuple[Difference, ...]
    made: tuple[Difference, ...]
    rows: tuple[SkillRows, ...]

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        if self.low > 0:
            outcome = f"{self.second} is the better one"
        elif self.high < 0:
            outcome = f"{self.first} is the better one"
        else:
            outcome = "these items do not tell which is better"
        return (
            f"Against {self.first}, {self.second} won {self.wins} items and lost {self.losses} of {self.n}: "
            f"{self.gain:+.3f} on the mix (95 % interval {self.low:+.3f} to {self.high:+.3f}, "
            f"p = {self.p_value:.2g}); {outcome}."
        )

    @property
    def recipe_sentence(self) -> str:
        """How the second recipe differs from the first, in words."""
        if not self.recipe:
            return "Both followed the same recipe."
        told = ", ".join(f"{d.field} {d.second} instead of {d.first}" for d in self.recipe)
        return f"{self.second} followed another recipe than {self.first}: {told}."

    @property
    def lineage_sentence(self) -> str:
        """How the rounds are related, in words."""
        if self.fork is None:
            return f"{self.first} and {self.second} have no round in common."
        if self.fork in (self.first, self.second):
            later = self.second if self.fork == self.first else self.first
            return f"{self.fork} is on the line of {later}."
        return f"{self.first} and {self.second} part after {self.fork}."


def compare(store: ArtifactStore, first: RoundKey, second: RoundKey) -> Comparison:
    """The candidates of two finished rounds on the items that both answered.

    Rounds of one campaign share their guard items, their anchor items unless these were drawn anew between
    them (`pools.anchor_rounds`), and such fresh items as were drawn twice.

    Raises:
        SelfimpError: a round is not finished or was altered, they share no item, or they were measured
            under different harnesses.
    """
    harnesses = [read_report(store, key).harness for key in (first, second)]
    if differing := list(differing_fields(harnesses[0], harnesses[1])):
        told = ", ".join(f"{d.field} {d.first} and {d.second}" for d in differing)
        raise SelfimpError(
            f"the rounds were measured under different harnesses: {told}",
            where=f"{first} and {second}",
            fix="materialize eval_report of both again, with the same settings and versions",
        )
    pairs = _paired(store, first, second)
    tested = pairs.filter(pl.col("suite") != "guard").unique("item_id", keep="first", maintain_order=True)
    if tested.is_empty():
        raise SelfimpError(
            "the rounds share no anchor or fresh item",
            where=f"{first} and {second}",
            fix="compare rounds whose campaigns have the same skills, seed and pools",
        )
    policies = [read_policy(store, key)[0] for key in (first, second)]
    weights = item_weights(tested["skill"].to_list(), policies[0].campaign.skill_weights)
    differences = (tested["after"] - tested["before"]).to_numpy()
    interval = paired_difference_interval(differences, weights=weights)
    wins, losses, _ = paired_counts(tested)
    lines = [[str(key) for key in policy.line] for policy in policies]
    recipes = [_recipe(policy.campaign.recipe) for policy in policies]
    return Comparison(
        first=str(first),
        second=str(second),
        n=tested.height,
        wins=wins,
        losses=losses,
        gain=float(differences @ weights),
        low=interval.low,
        high=interval.high,
        p_value=mcnemar_exact(wins, losses),
        skills=tuple(_by_skill(pairs)),
        fork=next((key for key in reversed(lines[0]) if key in lines[1]), None),
        recipe=tuple(differing_fields(recipes[0], recipes[1])),
        made=tuple(_made(store, first, second, policies)),
        rows=tuple(_rows(store, first, second)),
    )


def _paired(store: ArtifactStore, first: RoundKey, second: RoundKey) -> pl.DataFrame:
    """Rows of scores.PAIRS for the items that both candidates answered."""
    answers = [
        store.open(key, ASSET)
        .table("evaluations", EVALUATIONS)
        .filter(pl.col("arm") == "candidate")
        .with_columns(arm=pl.lit(arm))
        for key, arm in ((first, "first"), (second, "second"))
    ]
    both = ["suite", "item_id"]
    shared = answers[0].select(both).join(answers[1].select(both), on=both)
    if shared.is_empty():
        return pl.DataFrame(schema={"suite": pl.String, "item_id": pl.String})
    return pair_arms(pl.concat(answers).join(shared, on=both, how="semi"), "first", "second")


def _by_skill(pairs: pl.DataFrame) -> Iterator[SkillDifference]:
    for (suite, skill), items in sorted(pairs.partition_by("suite", "skill", as_dict=True).items()):
        differences = (items["after"] - items["before"]).to_numpy()
        interval = paired_difference_interval(differences)
        yield SkillDifference(
            suite=suite,
            skill=skill,
            n=items.height,
            first=items["before"].to_numpy().mean(),
            second=items["after"].to_numpy().mean(),
            difference=differences.mean(),
            low=interval.low,
            high=interval.high,
        )


def _rows(store: ArtifactStore, first: RoundKey, second: RoundKey) -> Iterator[SkillRows]:
    trained = [_trained_on(store, key) for key in (first, second)]
    for skill in sorted({skill for _, skill in trained[0] | trained[1]}):
        one, other = ({sample for sample, of in rows if of == skill} for rows in trained)
        yield SkillRows(skill=skill, both=len(one & other), first=len(one - other), second=len(other - one))


def _trained_on(store: ArtifactStore, key: RoundKey) -> set[tuple[str, str]]:
    """The ids of the rows that a round trained on, each with its skill."""
    training = store.open(key, "checkpoint").table("training", TRAINING)
    return set(training.drop_nulls("sample_id").select("sample_id", "skill").iter_rows())


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """Every parameter by its place, those that the campaign file leaves out too."""
    told: dict[str, Any] = {"minimum_rows": recipe.minimum_rows, "rewards": {}, "selection": {}}
    for _, stage, choice in recipe.choices():
        parameters = choice.resolve(stage)[1].model_dump(mode="json")
        if stage in CHAINS:
            chain, name = told[PLACES[stage]], choice.method
            while name in chain:
                name += " again"
            chain[name] = parameters
        else:
            told[stage] = {"method": choice.method, **parameters}
    return told | {"order of selection": " > ".join(told["selection"])}


def _made(
    store: ArtifactStore, first: RoundKey, second: RoundKey, policies: list[Policy]
) -> Iterator[Difference]:
    """What differs besides the recipe."""
    for field, told in (
        ("", [_start(policy) for policy in policies]),
        ("run configuration of ", _run_configurations(store, first, second, policies)),
        ("code version of ", [_code_versions(store, key) for key in (first, second)]),
        ("sampling engine: ", [_sampling_engine(store, key) for key in (first, second)]),
    ):
        yield from differing_fields(told[0], told[1], field)


def _start(policy: Policy) -> dict[str, Any]:
    """What a round was given, without what is told elsewhere."""
    told = policy.model_dump(mode="json", exclude={"round", "ancestors", "recipe_changes", "directives"})
    del told["campaign"]["recipe"]
    return told | {"directives": sentences(policy.directives)}


def _run_configurations(
    store: ArtifactStore, first: RoundKey, second: RoundKey, policies: list[Policy]
) -> list[dict[str, str]]:
    """Hashes of what the stages ran with, of those whose recipes do not explain that they differ.

    Then a run was asked for other parameters than the recipe's, was directed to take others, or drew
    another number of tasks.
    """
    recipes = [policy.campaign.recipe for policy in policies]
    stages: dict[str, list[Any]] = {
        "generated_corpus": [(recipe.curriculum, recipe.acquisition) for recipe in recipes],
        "checkpoint": [recipe.optimization for recipe in recipes],
        "refined_outputs": [recipe.refinement for recipe in recipes],
    }
    return [
        {
            stage: store.open(key, stage, verify=False).manifest.config_hash[:16]
            for stage, choices in stages.items()
            if choices[0] == choices[1]
        }
        for key in (first, second)
    ]


def _sampling_engine(store: ArtifactStore, key: RoundKey) -> dict[str, Any]:
    engine: dict[str, Any] = store.open(key, "generated_corpus", verify=False).facts["engine"]
    return engine


def _code_versions(store: ArtifactStore, key: RoundKey) -> dict[str, str]:
    return {stage: store.open(key, stage, verify=False).manifest.code_version for stage in _STAGES}


def differing_fields(
    first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    """The fields, by their dotted names, that are not the same in both."""
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differing_fields(one, other, f"{prefix}{name}.")
        elif one != other:
            yield Difference(field=f"{prefix}{name}", first=str(one), second=str(other))
