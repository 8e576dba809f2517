"""A batch computed as a tree is the batch computed row by row."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from selfimp_dagster.lifecycle.optimization.prefix_tree import (
    IGNORED,
    PrefixTree,
    distinct_prefixes,
    is_cheaper,
)
from selfimp_dagster.lifecycle.optimization.sft_trainer import predictions_on_rows, predictions_on_tree

VOCABULARY = 12
PROMPTS_AND_ANSWERS = [
    ([1, 2, 3, 4], [5, 6]),
    ([1, 2, 3, 4], [5, 7, 8]),  # another answer to the same prompt
    ([1, 2, 9], [5, 6]),
    ([10, 2, 3, 4], [11]),  # begins unlike the others
    ([1, 2, 3, 4], [5, 6]),  # a repeated row counts twice
]

rows = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6)


def labelled(pairs: list[tuple[list[int], list[int]]]) -> tuple[list[list[int]], list[list[int]]]:
    tokens = [prompt + answer for prompt, answer in pairs]
    return tokens, [[IGNORED] * len(prompt) + answer for prompt, answer in pairs]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def batch_loss(model: LlamaForCausalLM, tokens: list[list[int]], labels: list[list[int]]) -> torch.Tensor:
    """The loss of `sft` on a padded batch."""
    length = max(map(len, tokens))
    inputs = {
        "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in tokens]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens]),
        "labels": torch.tensor([row + [IGNORED] * (length - len(row)) for row in labels]),
    }
    _, logits, targets = predictions_on_rows(model, inputs)
    return cross_entropy(logits, targets, reduction="sum")


def tree_loss(model: LlamaForCausalLM, tokens: list[list[int]], labels: list[list[int]]) -> torch.Tensor:
    _, logits, targets = predictions_on_tree(model, PrefixTree.of(tokens, labels), torch.device("cpu"))
    return cross_entropy(logits, targets, reduction="sum")


def row_by_row_loss(
    model: LlamaForCausalLM, tokens: list[list[int]], labels: list[list[int]]
) -> torch.Tensor:
    losses = [
        cross_entropy(
            model(torch.tensor([row])).logits[0, :-1],
            torch.tensor(row_labels[1:]),
            reduction="sum",
            ignore_index=IGNORED,
        )
        for row, row_labels in zip(tokens, labels, strict=True)
    ]
    return torch.stack(losses).sum()


def test_what_rows_begin_with_is_stored_once() -> None:
    tree = PrefixTree.of(*labelled(PROMPTS_AND_ANSWERS))
    assert tree.tokens == [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 10, 2, 3, 4, 11]
    assert tree.depths == [0, 1, 2, 3, 4, 5, 5, 6, 2, 3, 4, 0, 1, 2, 3, 4]
    assert tree.targets == [5, 6, 5, 7, 8, 5, 6, 11, 5, 6]


@pytest.mark.parametrize("loss_of", [batch_loss, tree_loss])
def test_loss_and_gradients_are_those_of_the_rows_one_by_one(
    model: LlamaForCausalLM, loss_of: Callable[..., torch.Tensor]
) -> None:
    losses, gradients = [], []
    for function in (row_by_row_loss, loss_of):
        model.zero_grad()
        loss = function(model, *labelled(PROMPTS_AND_ANSWERS))
        loss.backward()
        losses.append(loss)
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@given(rows)
def test_every_row_is_a_path_that_sees_itself_alone(tokens: list[list[int]]) -> None:
    tree = PrefixTree.of(tokens, tokens)  # all trained on, but for first tokens, which nothing predicts
    seen = [row.nonzero()[:, 0].tolist() for row in tree.visible()]
    assert [len(nodes) for nodes in seen] == [depth + 1 for depth in tree.depths]
    paths = {tuple(tree.tokens[node] for node in nodes) for nodes in seen}
    assert paths == {tuple(row[:length]) for row in tokens for length in range(1, len(row) + 1)}
    assert len(tree.tokens) == len(paths)
    assert sorted(tree.targets) == sorted(token for row in tokens for token in row[1:])


@given(rows)
def test_nodes_are_counted_without_making_the_tree(tokens: list[list[int]]) -> None:
    length = max(map(len, tokens))
    padded = torch.tensor([row + [0] * (length - len(row)) for row in tokens])  # 0 is a token as well
    lengths = torch.tensor([len(row) for row in tokens])
    assert distinct_prefixes(padded, lengths) == len(PrefixTree.of(tokens, tokens).tokens)


def test_long_rows_that_share_little_are_cheaper_as_rows() -> None:
    shared, own = list(range(40)), torch.tensor([[100 + row, *range(20)] for row in range(8)])
    alike = torch.cat([torch.tensor([shared] * 8), own], 1)
    nodes = distinct_prefixes(alike, torch.full((8,), 61))
    assert is_cheaper(nodes, rows=8, length=61, hidden_size=576)
    unlike = torch.arange(8)[:, None].repeat(1, 1000)
    nodes = distinct_prefixes(unlike, torch.full((8,), 1000))
    assert not is_cheaper(nodes, rows=8, length=1000, hidden_size=576)
