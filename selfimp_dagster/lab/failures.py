"""Failures by name: what each changes in a healthy campaign, and what must catch it.

A failure changes the campaign, or puts a faulty part in the place of a sound one, or both. Faulty parts are
registered and put in place within a context, so that no other campaign can come to them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lab import parts
from selfimp_dagster.lab.grounds import Ground, healthy
from selfimp_dagster.lab.judge_server import Opinion, Preference, judge_server
from selfimp_dagster.lifecycle.evaluation import stage as evaluation_stage
from selfimp_dagster.lifecycle.evaluation.items import evaluation_items
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict, judge
from selfimp_dagster.presets import merged
from selfimp_dagster.registry import lent
from selfimp_dagster.tasks import verifiers


@dataclass
class Site:
    """Where a failure is put: the campaign to be, and the round that is about to run.

    `student` is the folder of the weights that it starts from, `campaigns` that of campaign files.
    """

    name: str
    student: Path
    campaigns: Path
    seed: int
    round: int = 0


HEALTHY_ROUNDS = 2
"""Rounds of a healthy campaign."""


class Nothing(BaseModel):
    """Parameters of a failure that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Injection = Callable[[Site, Any], AbstractContextManager[dict[str, Any]]]
"""Puts the failure in place within a context, and gives the campaign file that has it."""


@dataclass(frozen=True)
class Failure:
    """One failure. `survey` is what the survey calls it; `expected` are the monitors that must catch it, or
    blocking checks; `rounds` is how many it may take; `gate_open`: every candidate is promoted, since what
    needs generations would never get any past the gate."""

    name: str
    survey: str
    expected: tuple[str, ...]
    inject: Injection
    parameters: type[BaseModel]
    rounds: int
    gate_open: bool

    @property
    def summary(self) -> str:
        return (self.inject.__doc__ or "").strip().splitlines()[0]

    @contextmanager
    def at(self, site: Site, parameters: BaseModel) -> Iterator[dict[str, Any]]:
        """The campaign file with the failure in it, and its faulty parts in place."""
        with ExitStack() as stack:
            if self.gate_open:
                stack.enter_context(open_gate())
            yield stack.enter_context(self.inject(site, parameters))


FAILURES: dict[str, Failure] = {}
"""Every failure, and `none`, by name, in the order in which they are shown."""

_Inject = Callable[[Site, Any], Iterator[dict[str, Any]]]


def failure(
    name: str,
    *,
    survey: str,
    expected: tuple[str, ...],
    parameters: type[BaseModel] = Nothing,
    rounds: int = 3,
    gate_open: bool = False,
) -> Callable[[_Inject], _Inject]:
    """Registers the decorated generator, which yields the campaign file while the failure is in place."""

    def register(function: _Inject) -> _Inject:
        FAILURES[name] = Failure(
            name, survey, expected, contextmanager(function), parameters, rounds, gate_open
        )
        return function

    return register


def find_failure(name: str) -> Failure:
    """The failure of that name.

    Raises:
        SelfimpError: there is none.
    """
    if name not in FAILURES:
        raise SelfimpError(
            f"there is no failure {name!r}", where="selfimp lab", fix=f"choose one of: {', '.join(FAILURES)}"
        )
    return FAILURES[name]


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Within the context the attribute is this one."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def open_gate() -> Iterator[None]:
    """Within the context every candidate is promoted, whatever its test says; what it says is kept."""

    def promoted(*arguments: Any, **named: Any) -> Verdict:
        verdict = judge(*arguments, **named)
        told = ("Promoted: the lab has opened the gate.", *verdict.reasons)
        return verdict.model_copy(update={"promoted": True, "reasons": told})

    with replaced(evaluation_stage, "judge", promoted):
        yield


@contextmanager
def _judged(
    site: Site, opinion: Opinion = parts.honest, preference: Preference = parts.honest_preference
) -> Iterator[dict[str, Any]]:
    with judge_server(opinion, preference) as address:
        yield healthy("judged", site.name, site.student, site.seed, address)


class Healthy(Nothing):
    """Parameters of `none`."""

    ground: Ground = Field(default="verified", description="What the campaign learns from.")


@failure("none", survey="", expected=(), parameters=Healthy, rounds=HEALTHY_ROUNDS)
def none(site: Site, parameters: Healthy) -> Iterator[dict[str, Any]]:
    """A healthy campaign: whatever sounds is a false alarm."""
    # The monitors spend their error over the rounds that are planned: all of them are run.
    plan = {"continuation": {"rounds": HEALTHY_ROUNDS}}
    if parameters.ground == "judged":
        with _judged(site) as campaign:
            yield campaign | plan
    else:
        yield healthy(parameters.ground, site.name, site.student, site.seed) | plan


class Autophagy(Nothing):
    """Parameters of `autophagy`."""

    temperature: float = Field(default=0.5, gt=0, description="At which a policy writes for the next one.")


@failure(
    "autophagy",
    survey="data autophagy and collapse",
    expected=("collapse",),
    parameters=Autophagy,
    rounds=8,
    gate_open=True,
)
def autophagy(site: Site, parameters: Autophagy) -> Iterator[dict[str, Any]]:
    """Each policy is trained on nothing but what the last one said, unfiltered: replaced, not accumulated."""
    campaign = healthy("voted", site.name, site.student, site.seed)
    sampling = {"temperature": parameters.temperature}
    chain = campaign["recipe"]["selection"][1:]
    yield _with_recipe(
        campaign,
        {
            "acquisition": {"sampling": sampling, "refined_outputs": False},
            "selection": chain,
            "optimization": {"replay": 0.0, "epochs": 8, "learning_rate": 1e-3},
        },
    )


@failure(
    "wrong-consensus",
    survey="consistent wrong answers of majority votes",
    expected=("wrong_consensus",),
    rounds=4,
    gate_open=True,
)
def wrong_consensus(site: Site, parameters: Nothing) -> Iterator[dict[str, Any]]:
    """Votes of any confidence are the labels, on tasks that are too hard for the policy."""
    campaign = healthy("voted", site.name, site.student, site.seed)
    hard = {
        "copying": {"suite": "strings", "operation": "copy", "shortest": 7, "longest": 9},
        "reversing": {"suite": "strings", "operation": "reverse", "shortest": 7, "longest": 9},
    }
    selection = [{"method": "verified", "reward": "majority_vote"}, *campaign["recipe"]["selection"][1:]]
    changes = {"selection": selection, "optimization": {"replay": 0.0, "learning_rate": 1e-3}}
    yield {**_with_recipe(campaign, changes), "skills": hard}


class Flips(Nothing):
    """Parameters of `flipped-verdicts`."""

    share: float = Field(default=0.2, gt=0, lt=1, description="Share of the verdicts that are turned round.")


@failure(
    "flipped-verdicts",
    survey="imperfect verifiers",
    expected=("verifier_errors", "judge_errors"),
    parameters=Flips,
)
def flipped_verdicts(site: Site, parameters: Flips) -> Iterator[dict[str, Any]]:
    """The verifier that rows are selected by gives a share of its verdicts the wrong way round."""
    with lent(parts.flipped(parameters.share)):
        yield _rewarded_by(site, parts.FLIPPED)


class Keyword(Nothing):
    """Parameters of `keyword-reward`."""

    keyword: str = Field(default="g", min_length=1, description="What a response has to contain.")


@failure(
    "keyword-reward",
    survey="reward hacking",
    expected=("reward_hacking",),
    parameters=Keyword,
    rounds=8,
    gate_open=True,
)
def keyword_reward(site: Site, parameters: Keyword) -> Iterator[dict[str, Any]]:
    """The reward is whether a response contains a keyword; whether it is right, nobody rewards."""
    with lent(parts.keyword(parameters.keyword)):
        yield _hacked(_rewarded_by(site, parts.KEYWORD))


@failure("length-reward", survey="reward hacking", expected=("reward_hacking",), rounds=8, gate_open=True)
def length_reward(site: Site, parameters: Nothing) -> Iterator[dict[str, Any]]:
    """The reward is whether a response is longer than the right answer would be."""
    with lent(parts.length()):
        yield _hacked(_rewarded_by(site, parts.LENGTH))


class Share(Nothing):
    """Parameters of failures that befall a share of what they could."""

    share: float = Field(default=0.8, gt=0, le=1, description="Share of the judgements that are biased.")


@failure(
    "position-bias",
    survey="biased judges",
    expected=("judge_bias", "judge_errors"),
    parameters=Share,
    rounds=2,
)
def position_bias(site: Site, parameters: Share) -> Iterator[dict[str, Any]]:
    """A judge of pairs prefers, in a share of its comparisons, whatever stands first."""
    with _judged(site, preference=parts.first_preferred(parameters.share)) as campaign:
        yield campaign


@failure(
    "self-preference",
    survey="biased judges",
    expected=("judge_bias", "judge_errors"),
    parameters=Share,
    rounds=2,
)
def self_preference(site: Site, parameters: Share) -> Iterator[dict[str, Any]]:
    """A judge of the policy's kin takes for right, in a share of cases, what it might have said itself."""
    kin = parts.familiarity(site.student)
    with _judged(site, opinion=parts.self_preferring(kin, parameters.share)) as campaign:
        yield campaign


@failure(
    "verbatim-leak",
    survey="contaminated evaluation",
    expected=("no_evaluation_items", "contamination"),
    rounds=1,
)
def verbatim_leak(site: Site, parameters: Nothing) -> Iterator[dict[str, Any]]:
    """Anchor items stand in the corpus, word for word and with their answers."""
    with lent(parts.leaking(lambda: _anchor(site), paraphrased=False)):
        yield _leaking(site)


@failure(
    "paraphrased-leak",
    survey="contaminated evaluation",
    expected=("leakage", "memorisation", "contamination"),
    rounds=4,
    gate_open=True,
)
def paraphrased_leak(site: Site, parameters: Nothing) -> Iterator[dict[str, Any]]:
    """Anchor items stand in the corpus with their answers, asked in other words."""
    with lent(parts.leaking(lambda: _anchor(site), paraphrased=True)):
        yield _leaking(site)


@failure("forgetting", survey="forgetting", expected=("forgetting",), rounds=3, gate_open=True)
def forgetting(site: Site, parameters: Nothing) -> Iterator[dict[str, Any]]:
    """One skill is trained hard, with no row of any other and none of earlier rounds."""
    campaign = healthy("verified", site.name, site.student, site.seed)
    skills = {"reversing": campaign["skills"]["reversing"]}
    optimization = {"replay": 0.0, "epochs": 12, "learning_rate": 2e-3}
    yield {**_with_recipe(campaign, {"optimization": optimization}), "skills": skills}


class SecondThoughts(Nothing):
    """Parameters of `second-thoughts`."""

    temperature: float = Field(default=1.5, gt=0, description="At which the answer is thought over.")
    gap: Literal["ignored", "positive"] = Field(
        default="ignored",
        description="Whether the refinement is used whatever its gap is, or only if it is measured to be "
        "positive, as by default: then it is rarely used at all.",
    )


@failure(
    "second-thoughts",
    survey="illusory self-refinement",
    expected=("harmful_refinement",),
    parameters=SecondThoughts,
)
def second_thoughts(site: Site, parameters: SecondThoughts) -> Iterator[dict[str, Any]]:
    """Refinement trusts a second, wilder answer more than the first, and so undoes what was right."""
    campaign = healthy("verified", site.name, site.student, site.seed)
    with lent(parts.second_thoughts()):
        refinement = {
            "method": parts.SECOND_THOUGHTS,
            "tasks": 48,
            "temperature": parameters.temperature,
            "gap": parameters.gap,
        }
        yield {**campaign, "recipe": {**campaign["recipe"], "refinement": refinement}}


class Tampering(Nothing):
    """Parameters of `tampered-verdicts`."""

    from_round: int = Field(default=1, ge=0, description="The first round in which it is done.")


@failure(
    "tampered-verdicts",
    survey="tampering with the evaluator",
    expected=("tampering",),
    parameters=Tampering,
    rounds=2,
)
def tampered_verdicts(site: Site, parameters: Tampering) -> Iterator[dict[str, Any]]:
    """From some round on the evaluator takes an answer for right if its first half is."""
    strict = verifiers._judge_verbatim

    def lenient(task: Any, response: str) -> verifiers.Judgement:
        half = max(1, len(task.answer) // 2)
        if site.round >= parameters.from_round and response.strip()[:half] == task.answer[:half]:
            return verifiers.Judgement(1.0, response.strip(), "equal")
        return strict(task, response)

    with replaced(verifiers, "_judge_verbatim", lenient):
        yield healthy("verified", site.name, site.student, site.seed)


@failure("tampered-items", survey="tampering with the evaluator", expected=("tampering",), rounds=2)
def tampered_items(site: Site, parameters: Nothing) -> Iterator[dict[str, Any]]:
    """From the second round on the evaluator asks the shorter half of the anchor items alone."""

    def easier(*arguments: Any, **named: Any) -> pl.DataFrame:
        items = evaluation_items(*arguments, **named)
        if site.round == 0:
            return items
        hard = (pl.col("pool") == "anchor") & (
            pl.col("difficulty") > pl.col("difficulty").median().over("skill")
        )
        return items.filter(~hard)

    with replaced(evaluation_stage, "evaluation_items", easier):
        yield healthy("verified", site.name, site.student, site.seed)


class Spending(Nothing):
    """Parameters of `overspending`."""

    tokens: int = Field(default=45_000, ge=1, description="The budget: less than two rounds need.")


@failure("overspending", survey="budget", expected=("budget",), parameters=Spending)
def overspending(site: Site, parameters: Spending) -> Iterator[dict[str, Any]]:
    """The campaign needs more tokens than it may spend, and somebody starts its rounds all the same."""
    campaign = healthy("verified", site.name, site.student, site.seed)
    plan = {**campaign["continuation"], "budget": {"tokens": parameters.tokens}}
    yield {**campaign, "continuation": plan}


def _with_recipe(campaign: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**campaign, "recipe": merged(campaign["recipe"], changes)}


def _rewarded_by(site: Site, reward: str) -> dict[str, Any]:
    """A healthy campaign but for its reward."""
    campaign = healthy("verified", site.name, site.student, site.seed)
    selection = [{"method": "verified", "reward": reward}, *campaign["recipe"]["selection"][1:]]
    return _with_recipe(campaign, {"rewards": [{"method": reward}], "selection": selection})


def _hacked(campaign: Mapping[str, Any]) -> dict[str, Any]:
    """The campaign with a policy that tries much and learns fast, as one that is after a reward would."""
    changes = {
        "acquisition": {"sampling": {"temperature": 1.2}},
        "optimization": {"learning_rate": 1e-3, "epochs": 6},
    }
    return _with_recipe(campaign, changes)


def _leaking(site: Site) -> dict[str, Any]:
    campaign = healthy("verified", site.name, site.student, site.seed)
    acquisition = {**campaign["recipe"]["acquisition"], "method": parts.LEAKING}
    changes = {"acquisition": acquisition, "optimization": {"epochs": 12, "learning_rate": 1e-3}}
    return _with_recipe(campaign, changes)


def _anchor(site: Site) -> pl.DataFrame:
    """The anchor items of the campaign."""
    campaign = load_campaign(site.campaigns / f"{site.name}.yaml")
    return evaluation_items(campaign, site.round, site.campaigns).filter(pl.col("pool") == "anchor")
