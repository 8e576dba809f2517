"""Log-probabilities and embeddings of given texts, against the model called plainly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.models.loading import load_model, load_tokenizer

_ASKED = ({"role": "user", "content": "learn 472"},)
_LONGER = ({"role": "user", "content": "keep 1234567 and learn"},)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, dtype="float32", device="cpu", batch_size=4)


def _plain(folder: Path, prompt: list[int], response: list[int]) -> list[float]:
    logits = load_model(folder, dtype="float32")(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    first = max(1, len(prompt))
    tokens = prompt + response
    return [logits[place - 1, tokens[place]].item() for place in range(first, len(tokens))]


def test_log_probabilities_are_those_of_the_model(engine: TransformersEngine, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    pairs = [(_ASKED, "7"), (_LONGER, "30 1"), ((), "learn"), (_ASKED, "0123456789")]
    for (messages, response), found in zip(pairs, engine.logprobs(pairs), strict=True):
        prompt = (
            tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
            if messages
            else []
        )
        expected = _plain(tiny_model, prompt, tokenizer.encode(response, add_special_tokens=False))
        assert found == pytest.approx(expected, abs=1e-4)


def test_what_has_no_token_to_score_has_no_log_probabilities(engine: TransformersEngine) -> None:
    assert engine.logprobs([(_ASKED, ""), ((), "7"), ((), "")]) == [[], [], []]


def test_what_pairs_have_in_common_is_read_once(engine: TransformersEngine) -> None:
    read: list[int] = []
    grades = engine.logprobs([(_ASKED, grade) for grade in "1234"], on_tokens=read.append)
    alone: list[int] = []
    assert grades[0] == pytest.approx(engine.logprobs([(_ASKED, "1")], on_tokens=alone.append)[0], abs=1e-5)
    assert read == alone
    assert engine.logprobs([(_ASKED, "12"), (_ASKED, "1")])[0][:1] == pytest.approx(grades[0], abs=1e-5)


def test_tokens_that_are_read_are_counted(engine: TransformersEngine) -> None:
    read: list[int] = []
    engine.embed(["learn 472", "", "k"], on_tokens=read.append)
    assert sum(read) == len("learn 472k")
    engine.logprobs([((), "learn"), ((), "7")], on_tokens=read.append)
    assert sum(read) == len("learn 472k") + len("lear")


def test_embeddings_are_the_mean_state_at_unit_length(engine: TransformersEngine, tiny_model: Path) -> None:
    texts = ["learn 472", "k", "", "keep 100 and 200"]
    found = engine.embed(texts)
    model, tokenizer = load_model(tiny_model, dtype="float32"), load_tokenizer(tiny_model)
    for text, row in zip(texts, found, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            assert not row.any()
            continue
        states = model.get_decoder()(torch.tensor([ids])).last_hidden_state[0].mean(0).detach().numpy()
        assert row == pytest.approx(states / np.linalg.norm(states), abs=1e-4)
