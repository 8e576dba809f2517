"""Rows that begin alike as one tree of tokens, so that a training step computes each beginning once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

IGNORED = -100
"""The label of a token that is not trained on, as in TRL."""


@dataclass(frozen=True)
class PrefixTree:
    """A batch of token rows in which what several rows begin with is stored once.

    A model that sees every token of the tree at its depth, with its ancestors and itself alone, computes
    what it computes on the rows one by one; loss and gradients are equal up to rounding (tree training,
    Prefix Grouper, arXiv:2506.05433).

    Attributes:
        tokens: of the nodes, parents before children.
        parents: the node before each node in its rows, -1 for a first token.
        depths: the position of each node in its rows.
        sources: the nodes whose logits predict a labelled token.
        targets: those tokens; once for every row that holds them.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    sources: list[int]
    targets: list[int]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> "PrefixTree":
        """The tree of rows without padding; `labels` of the same lengths, IGNORED where not trained on."""
        nodes: dict[tuple[int, int], int] = {}  # parent and token to node
        tree = cls([], [], [], [], [])
        for row, row_labels in zip(rows, labels, strict=True):
            node = -1
            for depth, (token, label) in enumerate(zip(row, row_labels, strict=True)):
                if label != IGNORED and node >= 0:
                    tree.sources.append(node)
                    tree.targets.append(label)
                parent, node = node, nodes.setdefault((node, token), len(nodes))
                if node == len(tree.tokens):
                    tree.tokens.append(token)
                    tree.parents.append(parent)
                    tree.depths.append(depth)
        return tree

    def visible(self) -> torch.Tensor:
        """Whether node i attends to node j: shape (nodes, nodes)."""
        visible = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                visible[node] |= visible[parent]
        return visible


def distinct_prefixes(rows: torch.Tensor, lengths: torch.Tensor) -> int:
    """How many nodes the tree of these rows has, without making it.

    Args:
        rows: tokens, shape (rows, longest); what lies beyond a row's length does not count.
        lengths: of the rows, shape (rows,).
    """
    places = np.arange(rows.shape[1])
    tokens = np.where(places < lengths.cpu().numpy()[:, None], rows.cpu().numpy(), -1)
    tokens = tokens[np.lexsort(tokens.T[::-1])]  # rows that begin alike become neighbours
    alike = (tokens[1:] == tokens[:-1]) & (tokens[1:] != -1)
    return int((tokens != -1).sum() - np.logical_and.accumulate(alike, axis=1).sum())


def is_cheaper(nodes: int, rows: int, length: int, hidden_size: int) -> bool:
    """Whether a tree of so many nodes costs less than the batch as padded rows, all of them of that length.

    A token costs a transformer layer 24 d^2 + 4 c d operations with c tokens in its context (Kaplan et
    al., arXiv:2001.08361): of few long rows that share little, the tree's one long context is dearer.
    """
    return nodes * (6 * hidden_size + nodes) < rows * length * (6 * hidden_size + length)
