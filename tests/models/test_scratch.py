"""The model made from nothing: the same bytes each time, a token a letter or column, fit for the engine."""

from pathlib import Path

import pytest

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.loading import load_tokenizer
from selfimp_dagster.models.scratch import scratch_model
from selfimp_dagster.models.source import resolve_model


def test_the_same_seed_makes_the_same_model_and_another_one_another(tmp_path: Path) -> None:
    first = resolve_model("scratch:characters", tmp_path / "one")
    assert policy_hash(first) == policy_hash(scratch_model(tmp_path / "two"))
    assert policy_hash(first) != policy_hash(scratch_model(tmp_path / "two", seed=1))
    assert resolve_model("scratch:characters", tmp_path / "one") == first
    assert [path.name for path in (tmp_path / "one").iterdir()] == [first.name]


def test_letters_and_columns_are_tokens_and_the_engine_runs_it(tmp_path: Path) -> None:
    folder = scratch_model(tmp_path)
    tokenizer = load_tokenizer(folder)
    chat = [{"role": "user", "content": "+9217"}, {"role": "assistant", "content": "1109"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "+9217=1109<end>"
    assert tokenizer.tokenize("+9217=1109<end>") == ["+", "92", "17", "=", "11", "09", "<end>"]
    assert tokenizer.tokenize("<abba=abba") == [*"<abba=abba"]
    assert tokenizer.decode(tokenizer("+9217=1109")["input_ids"]) == "+9217=1109"
    engine = TransformersEngine(folder, dtype="float32", device="cpu")
    ((answer,),) = engine.generate(
        [Request("a", tuple(chat[:1]), 0)], Sampling(max_new_tokens=3, temperature=0)
    )
    assert answer.prompt_tokens == 4


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SelfimpError, match="no recipe for a model called 'words'"):
        resolve_model("scratch:words", tmp_path)
