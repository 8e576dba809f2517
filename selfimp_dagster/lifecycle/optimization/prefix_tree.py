"""Rows that begin alike as one tree of tokens, so that a training step computes each beginning once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

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
        tokens: shape (nodes,), parents before children.
        depths: shape (nodes,), the position of each token in its row.
        visible: shape (nodes, nodes), whether node i attends to node j.
        sources: shape (labelled,), the nodes whose logits predict a labelled token.
        targets: shape (labelled,), those tokens; once for every row that holds them.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    visible: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> "PrefixTree":
        """The tree of rows without padding; `labels` of the same lengths, IGNORED where not trained on."""
        nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node; -1 is the parent of a first token
        parents: list[int] = []
        depths: list[int] = []
        sources: list[int] = []
        targets: list[int] = []
        for row, row_labels in zip(rows, labels, strict=True):
            node = -1
            for depth, (token, label) in enumerate(zip(row, row_labels, strict=True)):
                if label != IGNORED and node >= 0:
                    sources.append(node)
                    targets.append(label)
                parent, node = node, nodes.setdefault((node, token), len(nodes))
                if node == len(parents):
                    parents.append(parent)
                    depths.append(depth)
        visible = torch.eye(len(parents), dtype=torch.bool)
        for node, parent in enumerate(parents):
            if parent >= 0:
                visible[node] |= visible[parent]
        return cls(
            torch.tensor([token for _, token in nodes]),
            torch.tensor(depths),
            visible,
            torch.tensor(sources),
            torch.tensor(targets),
        )

    def to(self, device: torch.device) -> "PrefixTree":
        """The same tree on a device."""
        return PrefixTree(*(getattr(self, field.name).to(device) for field in fields(self)))
