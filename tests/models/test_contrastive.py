"""Contrastive decoding token by token against its formula, worked out from plain logits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_model

from selfimp_dagster.engines.base import ContrastiveSampling, Request, Sampling
from selfimp_dagster.engines.contrastive import ContrastiveEngine
from selfimp_dagster.engines.transformers_engine import TransformersEngine, contrast
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.loading import load_model, load_tokenizer
from selfimp_dagster.models.scratch import scratch_model

PROMPTS = ["learn 123", "keep 400", "learn 9", "what is this?"]


@pytest.fixture(scope="module")
def amateur(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("amateur"), steps=12)


def test_the_score_in_numbers() -> None:
    expert = torch.tensor([[0.5, 0.4, 0.06, 0.04]]).log()
    amateur = torch.tensor([[0.6, 0.2, 0.01, 0.19]]).log()
    told = ContrastiveSampling(amateur="x", plausibility=0.1)
    scores = contrast(expert, amateur, told)[0]
    assert scores.tolist() == pytest.approx(
        [math.log(0.5 / 0.6), math.log(0.4 / 0.2), math.log(0.06 / 0.01), -math.inf]
    )
    assert contrast(expert, amateur, told.model_copy(update={"plausibility": 0.5}))[0].argmax() == 1
    flat = contrast(expert, amateur, told.model_copy(update={"amateur_temperature": 1e6}))[0]
    assert flat[:3].tolist() == pytest.approx([math.log(4 * p) for p in (0.5, 0.4, 0.06)], abs=1e-4)


def by_formula(
    expert: Path, amateur: Path, prompt: str, sampling: ContrastiveSampling, seed: int
) -> tuple[str, float]:
    """The response and its log-probability under the expert, from two models of transformers."""
    models = [load_model(folder, "float32") for folder in (expert, amateur)]
    tokenizer = load_tokenizer(expert)
    chat = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    said: list[int] = []
    total = 0.0
    uniforms = np.random.default_rng(seed).random(sampling.max_new_tokens, dtype=np.float32)
    for step in range(sampling.max_new_tokens):
        with torch.no_grad():
            likely, other = (
                torch.log_softmax(model(torch.tensor([ids + said])).logits[0, -1].double() / t, -1)
                for model, t in zip(models, (1.0, sampling.amateur_temperature), strict=True)
            )
        plausible = likely.exp() >= sampling.plausibility * likely.exp().max()
        score = torch.where(plausible, likely - other, -torch.inf)
        if sampling.temperature == 0:
            token = int(score.argmax())
        else:
            token = int((torch.softmax(score / sampling.temperature, -1).cumsum(0) <= uniforms[step]).sum())
        total += likely[token].item()
        said.append(token)
        if token == tokenizer.eos_token_id:
            break
    return tokenizer.decode(said, skip_special_tokens=True), total


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("plausibility", [0.001, 0.3])
def test_every_response_is_that_of_the_formula(
    tiny_model: Path, amateur: Path, temperature: float, plausibility: float
) -> None:
    expert, other = (TransformersEngine(folder, dtype="float32") for folder in (tiny_model, amateur))
    sampling = ContrastiveSampling(
        max_new_tokens=5,
        temperature=temperature,
        amateur=other.policy_hash,
        plausibility=plausibility,
        amateur_temperature=0.5,
    )
    requests = [
        Request(prompt, ({"role": "user", "content": prompt},), seed) for seed, prompt in enumerate(PROMPTS)
    ]
    (batch,) = ContrastiveEngine(expert, other).generate(requests, sampling)
    found = {completion.request_id: completion for completion in batch}
    for seed, prompt in enumerate(PROMPTS):
        response, logprob = by_formula(tiny_model, amateur, prompt, sampling, seed)
        assert found[prompt].response == response
        assert found[prompt].sum_logprob == pytest.approx(logprob, abs=1e-3)
    if plausibility < 0.01 and temperature == 0:
        plain = Sampling(max_new_tokens=5, temperature=temperature)
        (greedy,) = expert.generate(requests, plain)
        assert {c.request_id: c.response for c in greedy} != {id_: c.response for id_, c in found.items()}


def test_models_of_different_tokens_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    expert, other = TransformersEngine(tiny_model), TransformersEngine(scratch_model(tmp_path))
    with pytest.raises(SelfimpError, match="do not have the same tokens"):
        ContrastiveEngine(expert, other)
