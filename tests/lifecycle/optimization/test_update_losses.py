"""The loss of every update is its formula, computed here from plain logits."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from judged_corpus import RIGHT
from torch.nn.functional import logsigmoid

from selfimp_dagster.lifecycle.optimization.policy_gradient_trainer import preference_loss
from selfimp_dagster.lifecycle.optimization.preference_trainer import vote_loss
from selfimp_dagster.models.loading import load_model

Build = Callable[..., Any]

_LONGER = {100: ("7", "0123", "0", "5"), 101: ("7", "0", "05", "7"), 102: ("7", "123"), 103: ("7", "0")}
"""Responses of different lengths."""


def disturb(trainer: Any) -> None:
    """Moves the weights away from those training starts from, the same way every time."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)


def token_log_probs(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, answered: torch.Tensor
) -> torch.Tensor:
    """Of each token after the first, zero where it is no part of a response: (rows, tokens - 1)."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.double()
    found = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return found * answered[:, 1:]


@pytest.mark.parametrize(
    ("losses", "length_weight"),
    [
        ({"sigmoid": 1.0}, None),
        ({"sigmoid": 1.0}, 0.25),
        ({"ipo": 1.0}, None),
        ({"sppo_hard": 1.0}, None),
        ({"discopop": 1.0}, None),
        ({"sigmoid_norm": 1.0}, None),
        ({"sigmoid": 0.7, "ipo": 0.002, "sft": 0.3}, None),
    ],
)
def test_dpo(build: Build, losses: dict[str, float], length_weight: float | None) -> None:
    beta = 0.3
    trainer = build("dpo", groups=_LONGER, losses=losses, beta=beta, length_weight=length_weight)
    disturb(trainer)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(4)])
    ids, mask, answered = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    logs, reference = (
        token_log_probs(model, ids, mask, answered) for model in (trainer.model, trainer.ref_model)
    )
    lengths = answered.sum(1)
    shared = torch.minimum(*lengths.chunk(2)).repeat(2)
    weights = torch.ones_like(logs)
    if length_weight is not None:
        place = answered[:, 1:].cumsum(1)
        weights = torch.where(place > shared[:, None], length_weight, 1.0)
    (w, b), (w_tokens, l_tokens) = ((logs - reference) * weights).sum(1).chunk(2), lengths.chunk(2)
    d, per_token = w - b, w / w_tokens - b / l_tokens
    modulation = torch.sigmoid(beta * d / 0.05)
    formulas = {
        "sigmoid": -logsigmoid(beta * d),
        "ipo": (per_token - 1 / (2 * beta)) ** 2,
        "sppo_hard": (w - 1 / (2 * beta)) ** 2 + (b + 1 / (2 * beta)) ** 2,
        "discopop": (1 - modulation) * -logsigmoid(beta * d) + modulation * torch.exp(-beta * d),
        "sigmoid_norm": -logsigmoid(beta * per_token),
        "sft": -logs.chunk(2)[0].sum() / w_tokens.sum(),
    }
    expected = sum(weight * formulas[name].mean() for name, weight in losses.items())
    found = trainer._compute_loss(trainer.model, batch, False)
    assert found.item() == pytest.approx(float(expected), rel=1e-4)
    assert lengths.unique().numel() > 1


def test_spin(build: Build) -> None:
    trainer = build("spin", groups={100: ("0", "7"), 101: ("5",), 102: ("7",)}, strength=0.4)
    disturb(trainer)
    pairs = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
    say = trainer.processing_class.decode
    assert [(say(pair["chosen_ids"])[0], say(pair["rejected_ids"])[0]) for pair in pairs] == [
        (RIGHT, "0"),
        (RIGHT, "5"),
    ]
    batch = trainer.data_collator(pairs)
    ids, mask, answered = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    logs, opponent = (
        token_log_probs(model, ids, mask, answered).sum(1) for model in (trainer.model, trainer.ref_model)
    )
    real, own = (logs - opponent).chunk(2)
    expected = torch.log(1 + torch.exp(-0.4 * (real - own))).mean()
    assert trainer._compute_loss(trainer.model, batch, False).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_scpo(build: Build) -> None:
    groups = {
        100: ("7", "7", "7", "01"),
        101: ("7", "7", "0", "5"),
        102: ("7", "0"),
        103: ("7", "7", "7", "7"),
    }
    trainer = build("scpo", groups=groups, beta=0.5, likelihood=2.0)
    disturb(trainer)
    pairs = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
    assert sorted(pair["weight"] for pair in pairs) == [0.25, 0.5]  # (3 - 1) / 4 and (2 - 1) / 4
    batch = trainer.data_collator(pairs)
    ids, mask, answered = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    logs, reference = (
        token_log_probs(model, ids, mask, answered).sum(1) for model in (trainer.model, trainer.ref_model)
    )
    better, worse = (logs - reference).chunk(2)
    weights, tokens = batch["weight"], answered.sum(1).chunk(2)[0]
    expected = weights * (-torch.log(torch.sigmoid(0.5 * (better - worse))) - 2.0 / tokens * logs.chunk(2)[0])
    found = trainer._compute_loss(trainer.model, batch, False)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-4)


def test_scpo_of_one_pair_in_numbers() -> None:
    found = vote_loss(torch.tensor([2.0]), torch.tensor([-0.5]), torch.tensor([0.6]), 0.5, 1.0)
    assert found.item() == pytest.approx(0.6 * (math.log(1 + math.exp(-1)) + 0.5))


def test_sppo_of_one_response_in_numbers() -> None:
    found = preference_loss(torch.tensor([0.3, -1.0]), torch.tensor([5.0, -5.0]))
    assert found.tolist() == pytest.approx([22.09, 16.0])


def test_kto(build: Build) -> None:
    beta = 0.2
    groups = {100: ("7", "0", "5"), 101: ("7", "0"), 102: ("7", "05")}
    trainer = build("kto", groups=groups, beta=beta, batch_size=7)
    disturb(trainer)
    rows = [trainer.train_dataset[place] for place in range(7)]
    batch = trainer.data_collator(rows)
    ids, mask, answered = (batch[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    others = [batch[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")]
    logs, reference = (
        token_log_probs(model, ids, mask, answered).sum(1) for model in (trainer.model, trainer.ref_model)
    )
    mismatched = [token_log_probs(model, *others).sum(1) for model in (trainer.model, trainer.ref_model)]
    divergence = (mismatched[0] - mismatched[1]).mean().clamp(min=0)
    ratios, good = logs - reference, batch["label"].bool()
    assert good.sum() == 3
    expected = torch.where(
        good,
        4 / 3 * (1 - torch.sigmoid(beta * (ratios - divergence))),  # the rarer side, to weigh as much
        1 - torch.sigmoid(beta * (divergence - ratios)),
    )
    found = trainer._compute_loss(trainer.model, batch, False)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-4)


def recorded(trainer: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """The batch of all rows, and by hand the log-probabilities of their tokens now and when drawn."""
    old = [row.clone() for row in trainer.sampled]
    disturb(trainer)
    rows = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
    batch = trainer._prepare_inputs(rows)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    answered = torch.cat([torch.zeros_like(batch["prompt_mask"]), batch["completion_mask"]], 1)
    now = token_log_probs(trainer.model, ids, mask, answered)[:, -batch["completion_ids"].shape[1] :]
    before = torch.zeros_like(now)
    for place, row in enumerate(old):
        before[place, : len(row)] = row
    return batch, now, before


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo"])
def test_grpo(build: Build, variant: str) -> None:
    trainer = build("grpo", groups=_LONGER, variant=variant, divergence=0.3, clip=0.05)
    batch, now, before = recorded(trainer)
    mask, advantages = batch["completion_mask"], batch["advantages"][:, None]
    ratio = torch.exp(now - before)
    high = 0.28 if variant == "dapo" else 0.05
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - 0.05, 1 + high) * advantages)
    divergence = ratio * (torch.exp(before - now) - (before - now) - 1)
    tokens = (-surrogate + 0.3 * divergence) * mask
    expected = {
        "grpo": (tokens.sum(1) / mask.sum(1)).mean(),
        "dr_grpo": tokens.sum() / (len(mask) * 4),  # the token limit of the samples
        "dapo": tokens.sum() / mask.sum(),
    }[variant]
    assert ((ratio - 1).abs() * mask > 0.05).any(), "nothing is clipped"
    assert trainer._compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-4)
    assert mask.sum(1).unique().numel() > 1


def test_rloo(build: Build) -> None:
    trainer = build("rloo", groups=_LONGER, clip=0.05)
    batch, now, before = recorded(trainer)
    ratio = torch.exp((now - before).sum(1))
    advantages = batch["advantages"]
    expected = -torch.minimum(ratio * advantages, ratio.clamp(0.95, 1.05) * advantages).mean()
    assert trainer._compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_sppo(build: Build) -> None:
    trainer = build("sppo", groups={100: ("7", "0", "0", "05"), 101: ("7", "0")}, eta=4.0)
    batch, now, before = recorded(trainer)
    # One of four wins: it beats three and draws with itself, (3 + 1/2) / 4; the others draw with three.
    targets = [4 * (0.875 - 0.5), *[4 * (0.375 - 0.5)] * 3, 4 * (0.75 - 0.5), 4 * (0.25 - 0.5)]
    assert batch["advantages"].tolist() == pytest.approx(targets)
    expected = ((now - before).sum(1) - torch.tensor(targets)).square().mean()
    assert trainer._compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_was_drawn_by_other_weights_is_measured_against_them(build: Build, tiny_model: Any) -> None:
    assert len(build("grpo").sampled) == 32
    trainer = build("grpo", groups=_LONGER)
    drawn = [row.clone() for row in trainer.sampled]
    disturb(trainer)
    trainer.recall(load_model(tiny_model, dtype="float32"))
    assert all(
        torch.allclose(one, other, atol=1e-5) for one, other in zip(trainer.sampled, drawn, strict=True)
    )
    trainer.recall(None)
    assert not torch.allclose(trainer.sampled[0], drawn[0], atol=1e-3)


def test_weights_of_rows_multiply_their_loss(build: Build) -> None:
    trainer = build(
        "sft", groups={100: ("7",), 101: ("7",)}, values={"s100-0": 3.0, "s101-0": 1.0}, weight="value"
    )
    rows = [trainer.train_dataset[place] for place in range(2)]
    assert [row["weight"] for row in rows] == [1.5, 0.5]
    batch = trainer.data_collator(rows)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labelled = (batch["labels"] != -100).long()
    logs = token_log_probs(trainer.model, ids, mask, labelled)
    expected = -(logs.sum(1) * torch.tensor([1.5, 0.5])).sum() / labelled.sum()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-4)
