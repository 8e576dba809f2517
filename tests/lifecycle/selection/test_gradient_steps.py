"""LESS and RHO-loss: the adapter against the model called plainly, their formulas by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from selfimp_dagster.lifecycle.selection.adapter_torch import AdaptedPolicy, adam_direction, projected
from selfimp_dagster.lifecycle.selection.less import influence
from selfimp_dagster.models.loading import load_model, load_tokenizer

_PAIRS = [
    (({"role": "user", "content": "learn 472"},), "7"),
    (({"role": "user", "content": "learn 1"},), "0 or so"),
    (({"role": "user", "content": "keep 33"},), "3"),
]


@pytest.fixture
def policy(tiny_model: Path) -> AdaptedPolicy:
    """The tiny model with an adapter that was trained for an epoch."""
    made = AdaptedPolicy(tiny_model, rank=2, learning_rate=1e-2, seed=0, on_tokens=lambda count: None)
    list(made.train(made.encode(_PAIRS), seed=0))
    return made


def test_losses_are_those_of_the_model_and_the_adapter_begins_as_none(tiny_model):
    made = AdaptedPolicy(tiny_model, rank=2, learning_rate=1e-2, seed=0, on_tokens=lambda count: None)
    examples = made.encode(_PAIRS)
    model, tokenizer = load_model(tiny_model, dtype="float32"), load_tokenizer(tiny_model)
    for (messages, response), plain, adapted in zip(
        _PAIRS, made.losses(examples, adapted=False), made.losses(examples, adapted=True), strict=True
    ):
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        said = tokenizer.encode(f"{response}<|im_end|>", add_special_tokens=False)
        labels = torch.tensor([[-100] * len(asked) + said])
        expected = model(torch.tensor([asked + said]), labels=labels).loss.item()
        assert plain == pytest.approx(expected, abs=1e-4)
        assert adapted == pytest.approx(plain, abs=1e-4)


def test_training_lowers_the_loss_and_a_reset_undoes_it(policy):
    examples = policy.encode(_PAIRS)
    before, after = (np.mean(policy.losses(examples, adapted=adapted)) for adapted in (False, True))
    assert after < before
    policy.reset()
    assert np.mean(policy.losses(examples, adapted=True)) == pytest.approx(before, abs=1e-4)


def test_the_gradient_is_the_slope_of_the_loss(policy):
    (example, *_) = policy.encode(_PAIRS)
    gradient = policy.gradient(example)
    direction = gradient / gradient.norm()
    step, ends = 1e-2, []
    for sign in (1, -1):
        _move(policy, sign * step * direction)
        ends.append(policy.losses([example], adapted=True)[0])
        _move(policy, -sign * step * direction)
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient.norm().item(), rel=0.05)


def _move(policy: AdaptedPolicy, change: torch.Tensor) -> None:
    with torch.no_grad():
        for weight, part in zip(
            policy.weights, change.split([weight.numel() for weight in policy.weights]), strict=True
        ):
            weight += part.reshape(weight.shape)


def test_projected_cosines_are_those_of_the_gradients(policy):
    gradients = torch.stack([policy.gradient(example) for example in policy.encode(_PAIRS)])
    small = projected(gradients, 4096, seed=1)
    assert small.shape == (3, 4096)
    exact = cosine_similarity(gradients[:, None], gradients[None], dim=2)
    assert cosine_similarity(small[:, None], small[None], dim=2) == pytest.approx(exact, abs=0.06)
    assert small.norm(dim=1) == pytest.approx(gradients.norm(dim=1), rel=0.06)
    assert projected(gradients, 8, seed=1) == pytest.approx(projected(gradients, 8, seed=1))


def test_adams_direction_by_hand():
    moments = torch.tensor([[1.0], [4.0]])
    found = adam_direction(torch.tensor([[2.0], [0.0]]), moments)
    assert found[0].item() == pytest.approx((0.9 + 0.2) / math.sqrt(0.999 * 4 + 0.001 * 4 + 1e-8))
    assert found[1].item() == pytest.approx(0.9 / math.sqrt(0.999 * 4 + 1e-8))


def test_influence_is_the_mean_cosine_with_the_best_skill_without_the_own_task():
    cosines = np.array([[0.9, 0.1, 0.4], [0.2, 0.2, -0.5]])
    comparable = np.array([[False, True, True], [True, True, True]])
    assert influence(cosines, ["sums", "sums", "colours"], comparable) == pytest.approx([0.4, 0.2])
    assert influence(cosines[:1], ["sums"] * 3, np.zeros((1, 3), bool)) == [None]


def test_less_prefers_what_pushes_towards_the_target(corpus, judge, tiny_models):
    samples = [(f"l{n}", f"learn {n}", "7") for n in range(100, 108)]
    samples += [(f"z{n}", f"learn {n}", "zzz") for n in range(200, 208)]
    rewards = {sample_id: float(sample_id.startswith("l")) for sample_id, _, _ in samples}
    context = corpus([*samples, ("empty", "learn 1", " ")], rewards=rewards, models=tiny_models)
    fates = judge("less", context, warm_up=0.5, dimensions=512, target_rows=4)
    kept = [sample_id for sample_id, fate in fates.items() if fate["kept"]]
    assert kept == [sample_id for sample_id, _, _ in samples if sample_id.startswith("l")]
    assert (fates["empty"]["kept"], fates["empty"]["reason"]) == (False, "is empty")


def test_rho_loss_prefers_what_is_learnable_and_not_yet_learnt(corpus, judge, tiny_models):
    learnable = [(f"l{n}", f"new {n}", "5") for n in range(100, 116)]
    noise = [(f"n{n}", f"learn {n}", "70"[n % 2]) for n in range(200, 216)]  # a coin, and the model knows it
    known = [(f"k{n}", f"keep {n}", "3") for n in range(300, 316)]
    context = corpus([*learnable, *noise, *known, ("empty", "learn 1", "")], models=tiny_models)
    fates = judge("rho_loss", context, share=1 / 3, epochs=2, learning_rate=3e-3)
    kept = {sample_id for sample_id, fate in fates.items() if fate["kept"]}
    assert kept == {sample_id for sample_id, _, _ in learnable}
    assert np.mean([fates[sample_id]["score"] for sample_id, _, _ in [*noise, *known]]) < 0.2
    for sample_id, _, _ in [*learnable, *noise, *known]:
        found = json.loads(fates[sample_id]["evidence"])
        assert fates[sample_id]["score"] == pytest.approx(found["loss"] - found["reference_loss"])
    assert (fates["empty"]["kept"], fates["empty"]["reason"]) == (False, "is empty")


def test_one_task_alone_has_no_reference(corpus, judge, tiny_models):
    fates = judge("rho_loss", corpus([("a", "q", "x"), ("b", "q", "y")], models=tiny_models))
    assert fates["a"]["reason"] == "there is no other task to train a reference on"


@pytest.mark.parametrize("step", ["less", "rho_loss"])
def test_no_rows_need_no_gradients(corpus, judge, step):
    assert judge(step, corpus([])) == {}
