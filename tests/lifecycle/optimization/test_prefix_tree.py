"""A batch computed as a tree is the batch computed row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from selfimp_dagster.lifecycle.optimization.prefix_tree import IGNORED, PrefixTree

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


def tree_loss(model: LlamaForCausalLM, tokens: list[list[int]], labels: list[list[int]]) -> torch.Tensor:
    tree = PrefixTree.of(tokens, labels)
    logits = model(
        input_ids=tree.tokens[None],
        position_ids=tree.depths[None],
        attention_mask=tree.visible[None, None],
        logits_to_keep=tree.sources,
    ).logits[0]
    return cross_entropy(logits, tree.targets, reduction="sum")


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
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 10, 2, 3, 4, 11]
    assert tree.depths.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 2, 3, 4, 0, 1, 2, 3, 4]
    assert tree.targets.tolist() == [5, 6, 5, 7, 8, 5, 6, 11, 5, 6]


def test_loss_and_gradients_are_those_of_the_rows(model: LlamaForCausalLM) -> None:
    losses, gradients = [], []
    for loss_of in (row_by_row_loss, tree_loss):
        model.zero_grad()
        loss = loss_of(model, *labelled(PROMPTS_AND_ANSWERS))
        loss.backward()
        losses.append(loss)
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@given(rows)
def test_every_row_is_a_path_that_sees_itself_alone(tokens: list[list[int]]) -> None:
    tree = PrefixTree.of(tokens, tokens)  # all trained on, but for first tokens, which nothing predicts
    paths = {
        tuple(tree.tokens[tree.visible[node]].tolist())
        for node in range(len(tree.tokens))
        if tree.visible[node].sum() == tree.depths[node] + 1
    }
    assert paths == {tuple(row[:length]) for row in tokens for length in range(1, len(row) + 1)}
    assert len(tree.tokens) == len(paths)
    assert sorted(tree.targets.tolist()) == sorted(token for row in tokens for token in row[1:])
