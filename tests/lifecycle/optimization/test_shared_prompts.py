"""What is computed once for rows that begin alike is what TRL's own head computes row by row."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from selfimp_dagster.lifecycle.optimization import shared_prompts
from selfimp_dagster.lifecycle.optimization.prefix_tree import PrefixTree
from selfimp_dagster.lifecycle.optimization.shared_prompts import share_prompts
from selfimp_dagster.models.loading import load_model

_FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")


def batch(padded: str, shared: int) -> dict[str, torch.Tensor]:
    """Six rows of prompts and answers of several lengths; the first tokens are the same in all of them."""
    torch.manual_seed(0)
    length, prompts, answers = 24, (9, 9, 12, 12, 10, 10), (3, 5, 1, 7, 4, 12)
    tokens = torch.full((6, length), 0)
    attended, labels = torch.zeros(6, length, dtype=torch.long), torch.full((6, length), -100)
    beginning = torch.randint(4, 90, (shared,))
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        said = torch.randint(4, 90, (prompt + answer,))
        said[: min(shared, prompt)] = beginning[:prompt]
        start = length - len(said) if padded == "left" else 0
        place = slice(start, start + len(said))
        tokens[row, place], attended[row, place] = said, 1
        labels[row, start + prompt : start + prompt + answer] = said[prompt:]
    return {"input_ids": tokens, "attention_mask": attended, "labels": labels}


def scored(model: Any, asked: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the head says, and the gradient that the sum of squared log-probabilities has."""
    model.zero_grad()
    out = model(**asked, use_cache=False, fused_lm_head=True)
    (out.log_probs**2).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {name: getattr(out, name).detach() for name in (*_FIELDS, "loss")}, gradient


@pytest.mark.parametrize("padded", ["left", "right"])
@pytest.mark.parametrize(("shared", "on_tree"), [(8, True), (0, False)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_it_is_what_trl_computes(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    padded: str,
    shared: int,
    on_tree: bool,
    temperature: float,
) -> None:
    model, asked = load_model(tiny_model, "float32"), batch(padded, shared)
    trees: list[PrefixTree] = []
    visible = PrefixTree.visible
    monkeypatch.setattr(PrefixTree, "visible", lambda tree: trees.append(tree) or visible(tree))
    # Padding alone can make a tree cheaper, so that is decided here.
    monkeypatch.setattr(shared_prompts, "is_cheaper", lambda *_: on_tree)
    add_fused_lm_head(model, temperature=temperature, outputs=_FIELDS)
    expected, expected_gradient = scored(model, asked)
    assert not trees
    share_prompts(model, temperature)
    actual, gradient = scored(model, asked)
    assert bool(trees) == on_tree
    for name in (*_FIELDS, "loss"):
        torch.testing.assert_close(
            actual[name].float(), expected[name].float(), rtol=1e-4, atol=1e-5, msg=name
        )
    torch.testing.assert_close(
        gradient, expected_gradient, rtol=1e-3, atol=1e-4 * float(expected_gradient.abs().max())
    )


def test_adapters_are_trained_through_it(tiny_model: Path) -> None:
    model = load_model(tiny_model, "float32")
    add_fused_lm_head(model, outputs=_FIELDS)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    expected, expected_gradient = scored(adapted, batch("right", 8))
    share_prompts(adapted)
    actual, gradient = scored(adapted, batch("right", 8))
    torch.testing.assert_close(actual["log_probs"], expected["log_probs"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradient, expected_gradient, rtol=1e-3, atol=1e-4 * float(expected_gradient.abs().max())
    )


def test_what_does_not_fit_it_goes_to_trl(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(shared_prompts, "_scored", never)
    model, asked = load_model(tiny_model, "float32"), batch("right", 8)
    add_fused_lm_head(model)
    share_prompts(model)
    assert model(**asked, output_attentions=False, fused_lm_head=True).log_probs is not None
    from_the_start = asked | {"labels": asked["input_ids"]}
    assert model(**from_the_start, fused_lm_head=True).log_probs is not None
    monkeypatch.setattr(shared_prompts, "_MOST_LOGITS", 1)
    assert model(**asked, fused_lm_head=True).log_probs is not None


def test_without_being_asked_for_scores_the_model_is_what_it_was(tiny_model: Path) -> None:
    model, asked = load_model(tiny_model, "float32"), batch("right", 8)
    expected = model(**asked)
    greedy = model.generate(asked["input_ids"][:1, :9], max_new_tokens=4, do_sample=False)
    add_fused_lm_head(model)
    share_prompts(model)
    actual = model(**asked)
    torch.testing.assert_close(actual.logits, expected.logits)
    torch.testing.assert_close(actual.loss, expected.loss)
    assert model.generate(asked["input_ids"][:1, :9], max_new_tokens=4, do_sample=False).equal(greedy)
