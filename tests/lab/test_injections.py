"""Each injection does what it says, to small frames and to campaign files, and nothing is left of it."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from judges import judged, reward, reward_context

from selfimp_dagster.campaign import Campaign, parse_campaign
from selfimp_dagster.engines.openai_engine import OpenAIChat
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lab import parts
from selfimp_dagster.lab.failures import FAILURES, Flips, Site, find_failure, open_gate
from selfimp_dagster.lab.grounds import GROUNDS, healthy, school
from selfimp_dagster.lab.judge_server import judge_server
from selfimp_dagster.lab.run import planned
from selfimp_dagster.lifecycle.evaluation import stage as evaluation_stage
from selfimp_dagster.lifecycle.evaluation.continuation import Continuation
from selfimp_dagster.lifecycle.evaluation.items import evaluation_items
from selfimp_dagster.lifecycle.evaluation.monitors.reading import MONITORS
from selfimp_dagster.lifecycle.evaluation.promotion import PromotionRule
from selfimp_dagster.lifecycle.judges import DurableJudge
from selfimp_dagster.lifecycle.rewards.sources import EndpointSource
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import EVALUATIONS
from selfimp_dagster.registry import Method, all_methods, lent
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import verify

ADDRESS = "http://127.0.0.1:1/v1"
CHECKS = {"no_evaluation_items"}


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path) -> Site:
    return Site("lab-s0", tiny_model, tmp_path, seed=0)


def _open(site: Site, name: str) -> tuple[Campaign, set[str]]:
    """The campaign of a failure, parsed while the failure is in place, and what is registered meanwhile."""
    failure = find_failure(name)
    with failure.at(site, failure.parameters()) as plan:
        return parse_campaign(plan, where=name), {method.name for method in all_methods()}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_campaign_that_can_run_and_leaves_nothing_behind(
    name: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "familiarity", lambda weights: lambda prompt, response: 0.0)
    before = {method.name for method in all_methods()}
    gate, items = evaluation_stage.judge, evaluation_stage.evaluation_items
    campaign, _ = _open(site, name)
    assert campaign.name == "lab-s0"
    assert {method.name for method in all_methods()} == before
    assert (evaluation_stage.judge, evaluation_stage.evaluation_items) == (gate, items)


@pytest.mark.parametrize("name", FAILURES)
def test_what_must_catch_a_failure_exists(name: str) -> None:
    assert set(FAILURES[name].expected) <= set(MONITORS) | CHECKS


@pytest.mark.parametrize("ground", GROUNDS)
def test_healthy_campaigns_and_the_school_can_run(ground: str, tiny_model: Path) -> None:
    parse_campaign(healthy(ground, "well", tiny_model, 0, ADDRESS), where="well")  # type: ignore[arg-type]
    parse_campaign(school(0), where="school")


@pytest.mark.parametrize(("rounds", "expected"), [(2, 4), (8, 8)])
def test_a_campaign_plans_all_rounds_that_are_run(tiny_model: Path, rounds: int, expected: int) -> None:
    plan = planned(healthy("voted", "well", tiny_model, 0), rounds)
    campaign = parse_campaign(plan, where="well")
    assert (campaign.continuation.rounds, campaign.continuation.patience) == (expected, 4)


def test_no_other_campaign_can_name_a_faulty_part(tiny_model: Path) -> None:
    plan = healthy("verified", "well", tiny_model, 0)
    plan["recipe"]["rewards"] = [{"method": parts.FLIPPED}]
    with pytest.raises(SelfimpError, match="there is no reward method 'lab_flipped'"):
        parse_campaign(plan, where="well")


def test_a_method_that_exists_is_not_lent() -> None:
    known = all_methods()[0]
    with pytest.raises(ValueError, match="already"), lent(known):
        pass


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_flipped_verdicts_are_the_others_in_about_their_share(share: float) -> None:
    context = reward_context({f"p{n}": ["2", "3"] for n in range(400)})
    with lent(parts.flipped(Flips(share=share).share)):
        told = judged(reward(parts.FLIPPED), context)
    responses = dict(context.samples.select("sample_id", "response").iter_rows())
    wrong = sum(row["value"] != float(responses[id_] == "2") for id_, row in told.items())
    assert abs(wrong / 800 - share) < 0.05
    assert {row["kind"] for row in told.values()} == {"V"}


@pytest.mark.parametrize(
    ("method", "pleases", "displeases"),
    [(parts.keyword("g"), "xgx", "abc"), (parts.length(), "abcd", "abc")],
    ids=["keyword", "length"],
)
def test_hackable_rewards_see_nothing_but_what_they_reward(
    method: Method, pleases: str, displeases: str
) -> None:
    with lent(method):
        told = judged(reward(method.name), reward_context({">abc": [pleases, displeases]}))
    assert [row["value"] for row in told.values()] == [1.0, 0.0]


def test_a_biased_judge_prefers_the_first_in_both_orders_in_its_share() -> None:
    biased = parts.first_preferred(0.8)
    pairs = [
        (f">ab{n:03}".translate(str.maketrans("0123456789", "abcdefghij")), "x", "y") for n in range(500)
    ]
    both = sum(biased(p, a, b) == "A" and biased(p, b, a) == "A" for p, a, b in pairs)
    assert abs(both / 500 - 0.8) < 0.06


def test_an_honest_judge_prefers_what_is_right_and_rarely_errs() -> None:
    assert parts.honest_preference(">abc", "abc", "abd") == "A"
    assert parts.honest_preference(">abc", "xyz", "abc") == "B"
    assert parts.honest_preference(">abc", "xyz", "zyx") == "tie"
    words = [chr(97 + a) + chr(97 + b) for a in range(20) for b in range(20)]
    errors = sum(
        parts.honest(f">{word}", answer) != (answer == word) for word in words for answer in (word, "zz")
    )
    assert abs(errors / 800 - parts.HONEST_ERRORS) < 0.02


def test_a_self_preferring_judge_accepts_familiar_errors_and_no_strange_ones() -> None:
    opinion = parts.self_preferring(lambda prompt, response: 0.0 if response == "own" else -9.0, share=1.0)
    words = [chr(97 + a) + chr(97 + b) for a in range(20) for b in range(20)]
    assert all(opinion(f">{word}", "own") for word in words)
    assert sum(opinion(f">{word}", "strange") for word in words) < 0.07 * len(words)


def test_the_judge_server_answers_the_questions_of_the_rewards(tmp_path: Path) -> None:
    with judge_server(lambda prompt, response: prompt[1:] == response, parts.honest_preference) as address:
        source = EndpointSource(source="endpoint", url=address, model="lab")
        judge = DurableJudge(OpenAIChat(source), tmp_path, LogProgress(lambda line: None))
        context = replace(reward_context({">abc": ["abc", "abx"]}), judge=lambda of: judge)
        chosen = [reward(name, judge=source.model_dump(), repeats=1) for name in ("judge", "pairwise_judge")]
        graded, compared = (judged(one, context) for one in chosen)
    assert [row["value"] for row in graded.values()] == [1.0, 0.0]
    first, second = (row["value"] for row in compared.values())
    assert first > second


def _leaked(site: Site, paraphrased: bool) -> pl.DataFrame:
    plan = parse_campaign(healthy("verified", site.name, site.student, site.seed), where="well")
    anchor = evaluation_items(plan, 0, site.campaigns).filter(pl.col("pool") == "anchor")
    return parts.leaked(anchor, paraphrased)


def test_a_verbatim_leak_has_the_items_and_a_paraphrase_none_of_their_prompts(site: Site) -> None:
    verbatim, other = (_leaked(site, paraphrased) for paraphrased in (False, True))
    assert set(other["prompt"]).isdisjoint(verbatim["prompt"])
    assert set(other["answer"]) <= set(verbatim["answer"])
    assert other.height > 0.9 * verbatim.height
    assert all(verify(task, task.answer or "").value == 1 for task in tasks_from_frame(other))


def test_tampered_verdicts_begin_in_their_round(site: Site) -> None:
    item = healthy("verified", site.name, site.student, 0)
    plan = parse_campaign(item, where="well")
    task: Task = tasks_from_frame(evaluation_items(plan, 0, site.campaigns))[0]
    assert task.answer is not None
    half = task.answer[: len(task.answer) // 2 + 1]
    failure = find_failure("tampered-verdicts")
    with failure.at(site, failure.parameters()):
        first = verify(task, half).value
        site.round = 1
        second = verify(task, half).value
    assert (first, second, verify(task, half).value) == (0.0, 1.0, 0.0)


def test_tampered_items_are_the_easier_half_from_the_second_round_on(site: Site) -> None:
    failure = find_failure("tampered-items")
    with failure.at(site, failure.parameters()) as plan:
        campaign = parse_campaign(plan, where="well")
        full = evaluation_stage.evaluation_items(campaign, 0, site.campaigns)
        site.round = 1
        few = evaluation_stage.evaluation_items(campaign, 0, site.campaigns)
    anchor = pl.col("pool") == "anchor"
    assert few.filter(~anchor).equals(full.filter(~anchor))
    assert few.filter(anchor)["difficulty"].max() < full.filter(anchor)["difficulty"].max()  # type: ignore[operator]


def test_an_open_gate_promotes_and_keeps_what_the_test_said() -> None:
    same = pl.DataFrame(
        [
            (f"i{n}", suite, "copying", arm, arm, "x", float(n % 2), [], "", 1, 1, "f", False)
            for suite in ("anchor", "fresh")
            for n in range(40)
            for arm in ("incumbent", "candidate")
        ],
        schema=EVALUATIONS,
        orient="row",
    )
    given = (same, PromotionRule(), {"copying": 1.0}, Continuation(rounds=2), 0, [])
    sound = evaluation_stage.judge(*given)
    with open_gate():
        verdict = evaluation_stage.judge(*given)
    assert (sound.promoted, verdict.promoted) == (False, True)
    assert verdict.reasons == ("Promoted: the lab has opened the gate.", *sound.reasons)
