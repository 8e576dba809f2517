"""What is wrong with a campaign file is said when it is read: the file, the field, what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from home import file_skill, merged, tiny_campaign, write_tasks

from selfimp_dagster import registry
from selfimp_dagster.campaign import Campaign, campaign_schema, load_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.refinement.self_consistency import SelfConsistency

_SHIPPED = Path(__file__).parents[2] / "campaigns" / "arithmetic.yaml"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a campaign file with changes; no test here loads its model."""
    write_tasks(tmp_path)

    def write(name: str = "tiny", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(tiny_campaign(tmp_path), changes)))
        return path

    return write


def _refusal(path: Path) -> SelfimpError:
    with pytest.raises(SelfimpError) as caught:
        load_campaign(path)
    return caught.value


def test_the_tiny_campaign_is_one(write: Write) -> None:
    campaign = load_campaign(write())
    assert campaign.name == "tiny"
    assert campaign.skill_weights == {"learning": 1.0}


_STEPS = tiny_campaign(Path())["recipe"]["selection"]
_BAD_FIELDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown field": ({"modle": "x"}, ("modle",)),
    "an unknown field in a section": ({"pools": {"trian": 3}}, ("pools.trian",)),
    "a wrong type": ({"pools": {"train": "many"}}, ("pools.train: Input should be", "integer")),
    "no train tasks": ({"pools": {"train": 0}}, ("pools.train: Input should be", "above 0")),
    "an empty list of train tasks": ({"pools": {"train": []}}, ("pools.train: Input should be", "a list")),
    "a value out of range": ({"promotion": {"alpha": 2}}, ("promotion.alpha",)),
    "an unknown method": (
        {"recipe": {"optimization": {"method": "stf"}}},
        ("optimization", "'stf'", "choose one of", "sft"),
    ),
    "an unknown parameter": (
        {"recipe": {"optimization": {"method": "sft", "learnign_rate": 1}}},
        ("optimization", "learnign_rate"),
    ),
    "a parameter of a wrong type": (
        {"recipe": {"acquisition": {"method": "policy_sampling", "samples_per_task": "four"}}},
        ("acquisition", "samples_per_task"),
    ),
    "an unknown parameter in the chain": (
        {"recipe": {"selection": [*_STEPS[:-1], {"method": "cap_per_task", "capp": 1}]}},
        ("selection.4", "capp"),
    ),
    "a chain without an always-on step": (
        {"recipe": {"selection": [step for step in _STEPS if step["method"] != "decontamination"]}},
        ("selection", "decontamination is there 0 times"),
    ),
    "an unknown suite": ({"skills": {"learning": {"suite": "fiel"}}}, ("skills.learning", "suite")),
    "a skill's name": ({"skills": {"to learn": file_skill("learn.jsonl")}}, ("skills", "'to learn'")),
    "no planned rounds": ({"continuation": {"rounds": 0}}, ("continuation.rounds",)),
    "a numerics that is none": ({"evaluation": {"dtype": "float7"}}, ("evaluation.dtype",)),
}


@pytest.mark.parametrize(("changes", "said"), _BAD_FIELDS.values(), ids=_BAD_FIELDS.keys())
def test_a_bad_field_is_refused_by_its_name(
    write: Write, changes: dict[str, Any], said: tuple[str, ...]
) -> None:
    path = write(**changes)
    error = _refusal(path)
    assert str(path) in error.where
    for words in said:
        assert words in f"{error.where} {error.what}", words


def test_every_bad_field_is_named_at_once(write: Write) -> None:
    error = _refusal(write(modle="x", seed="x", pools={"fresh": -1}))
    assert all(field in error.what for field in ("modle", "seed", "pools.fresh"))


def test_pools_that_share_prompts_are_refused(write: Write) -> None:
    error = _refusal(write(guard={"keeping": file_skill("learn.jsonl")}))
    assert "keeping" in str(error)
    assert "learning" in str(error)


def test_too_few_items_for_the_gain_are_refused_with_how_many_it_takes(write: Write) -> None:
    error = _refusal(write(promotion={"minimum_gain": 0.05, "discordance": 0.3}))
    assert "100 evaluation items detect a gain of 0.05" in error.what
    assert "promotion" in error.where
    assert "at least" in error.fix


def test_only_the_suites_under_test_count(write: Write) -> None:
    assert load_campaign(write()).tested_items == 100
    error = _refusal(write(promotion={"suites": ["fresh"], "minimum_gain": 0.1}))
    assert "40 evaluation items detect" in error.what


def test_a_guard_too_small_for_its_margin_is_refused_with_how_many_it_takes(write: Write) -> None:
    assert load_campaign(write(promotion={"guard_margin": 0.4})).guard_items == {"keeping": 20}
    error = _refusal(write(promotion={"guard_margin": 0.1}))
    assert "20 items of keeping do not exclude a fall by 0.1" in error.what
    assert error.where == "promotion.guard_margin"
    assert "at least " in error.fix


def test_an_open_ended_campaign_must_say_that_it_is(write: Write) -> None:
    assert load_campaign(write(continuation={"rounds": None})).continuation.rounds is None
    path = write()
    data = yaml.safe_load(path.read_text())
    del data["continuation"]["rounds"]
    path.write_text(yaml.safe_dump(data))
    assert "continuation.rounds: Field required" in _refusal(path).what


def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\nskills: {learning: [\n")
    error = _refusal(path)
    assert error.where.startswith(f"{path}, line ")
    assert "not valid YAML" in error.what


@pytest.mark.parametrize("text", ["", "- a list\n", "just text\n"], ids=["empty", "list", "text"])
def test_yaml_that_is_no_campaign_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    error = _refusal(path)
    assert error.where == str(path)
    assert error.what == "not a campaign"


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(b"name: \xff\xfe\x00")
    assert str(path) in _refusal(path).where


def test_a_missing_file_is_refused_with_a_way_to_make_one(tmp_path: Path) -> None:
    error = _refusal(tmp_path / "none.yaml")
    assert error.where == str(tmp_path / "none.yaml")
    assert "selfimp init" in error.fix


def test_a_file_whose_name_is_not_the_campaigns_is_refused(write: Write) -> None:
    error = _refusal(write("other"))
    assert error.where.endswith("other.yaml: name")
    assert "'tiny'" in error.what


def test_a_missing_task_file_is_refused_with_its_skill(write: Write) -> None:
    path = write(skills={"learning": file_skill("nowhere.jsonl")})
    error = _refusal(path)
    assert "skills.learning" in error.where
    assert "nowhere.jsonl" in str(error)


def test_a_task_file_without_the_mapped_column_is_refused_with_its_columns(write: Write) -> None:
    path = write(skills={"learning": {**file_skill("learn.jsonl"), "prompt_column": "frage"}})
    error = _refusal(path)
    assert "skills.learning" in error.where
    assert "frage" in str(error)
    assert "question" in str(error)


def test_parameters_are_overridden_field_by_field() -> None:
    recipe = Campaign.model_validate(tiny_campaign(Path())).recipe
    choice = recipe.acquisition.with_parameters({"sampling": {"temperature": 0.5}})
    assert choice.parameters["sampling"] == {"max_new_tokens": 4, "temperature": 0.5}
    assert recipe.acquisition.parameters["sampling"] == {"max_new_tokens": 4}


def test_the_schema_for_editors_accepts_the_shipped_campaign_and_refuses_what_is_wrong() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(campaign_schema())
    shipped = yaml.safe_load(_SHIPPED.read_text())
    assert [error.message for error in validator.iter_errors(shipped)] == []
    assert not validator.is_valid(merged(shipped, {"modle": "x"}))
    assert not validator.is_valid(merged(shipped, {"recipe": {"optimization": {"method": "stf"}}}))
    assert not validator.is_valid(merged(shipped, {"recipe": {"optimization": {"learnign_rate": 1}}}))


def test_the_shipped_campaign_is_valid() -> None:
    assert load_campaign(_SHIPPED).name == "arithmetic"


def test_a_method_that_needs_what_is_missing_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @registry.method(
        "refinement",
        "judged",
        parameters=SelfConsistency,
        section="5.2",
        paper="arXiv:0000.00000",
        needs=frozenset({"verifier", "judge"}),
    )
    def judged() -> None:
        """Asks a judge."""

    error = _refusal(write(recipe={"refinement": {"method": "judged"}}))
    assert "refinement: judged needs judge" in error.what
    assert error.where.endswith("tiny.yaml")


_ENDPOINT = {"source": "endpoint", "url": "http://127.0.0.1:8000/v1", "model": "judge"}
_BAD_JUDGES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "the incumbent": (
        [{"method": "answer"}, {"method": "judge", "judge": {"source": "incumbent"}}],
        ("rewards.1: judge has the incumbent judge the corpus, which it drew itself", "choose another judge"),
    ),
    "the base model alone": (
        [{"method": "judge"}, {"method": "pairwise_judge"}, {"method": "weighted", "parts": {"judge": 1}}],
        ("only the base model judges", "in the first round it would judge its own samples"),
    ),
    "a model that is none": (
        [{"method": "answer"}, {"method": "judge", "judge": {"source": "model", "model": "nowhere"}}],
        ("recipe.rewards.1.judge.model", "nowhere: this is neither"),
    ),
    "no source": (
        [{"method": "answer"}, {"method": "judge", "judge": {"source": "oracle"}}],
        ("rewards.1: judge: Input tag 'oracle'",),
    ),
    "another machine": (
        [{"method": "judge", "judge": {**_ENDPOINT, "url": "https://judge.example/v1"}}],
        ("rewards.0: judge.endpoint", "is not this machine: write remote: true"),
    ),
    "a key in the file": (
        [{"method": "judge", "judge": {**_ENDPOINT, "api_key": "sk-4711"}}],
        ("rewards.0: judge.endpoint.api_key", "should match pattern"),
    ),
    "a part that is no reward": (
        [{"method": "answer"}, {"method": "weighted", "parts": {"judge": 1.0}}],
        ("rewards.1: weighted is made of judge, which does not stand before it",),
    ),
    "a weight of nothing": (
        [{"method": "answer"}, {"method": "weighted", "parts": {"answer": 0}}],
        ("parts.answer",),
    ),
    "the same name twice": (
        [{"method": "answer"}, {"method": "answer"}],
        ("rewards.1: answer is there twice",),
    ),
}


@pytest.mark.parametrize(("rewards", "said"), _BAD_JUDGES.values(), ids=_BAD_JUDGES.keys())
def test_judges_that_cannot_judge_are_refused_when_the_file_is_read(
    write: Write, rewards: list[dict[str, Any]], said: tuple[str, ...]
) -> None:
    error = _refusal(write(recipe={"rewards": rewards}))
    for words in said:
        assert words in str(error), words
    assert "sk-4711" not in str(error)


def test_the_campaigns_own_model_by_another_name_is_the_base_model(write: Write, tmp_path: Path) -> None:
    own = {"source": "model", "model": str(tmp_path)}
    assert (
        "only the base model judges"
        in _refusal(write(recipe={"rewards": [{"method": "judge", "judge": own}]})).what
    )


@pytest.mark.parametrize(
    "rewards",
    [
        [{"method": "answer"}, {"method": "judge"}],
        [{"method": "judge", "judge": _ENDPOINT}],
        [{"method": "judge", "judge": {**_ENDPOINT, "url": "https://judge.example/v1", "remote": True}}],
        [
            {"method": "answer"},
            {"method": "judge", "name": "strict", "judge": _ENDPOINT},
            {"method": "judge", "name": "mild", "judge": _ENDPOINT, "reading": "probabilities"},
            {"method": "weighted", "parts": {"answer": 2, "strict": 1, "mild": 1}},
        ],
    ],
)
def test_judges_that_can_are_taken(write: Write, rewards: list[dict[str, Any]]) -> None:
    campaign = load_campaign(write(recipe={"rewards": rewards}))
    assert [choice.model_dump() for choice in campaign.recipe.rewards] == rewards
