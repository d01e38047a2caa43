"""Trees of prompts and responses: what they have in common, and how they are cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Tree:
    """A prompt and the responses scored on it, as token ids."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Distinct tokens that the model reads; the last one of a response is only predicted."""
        return len(self.prompt) + sum(len(response) - 1 for response in self.responses)

    @property
    def depth(self) -> int:
        """Tokens on the longest path: what must fit the model's context."""
        return len(self.prompt) + max(map(len, self.responses), default=0)


Piece: TypeAlias = tuple[int, int, Tree]
"""Index of the original tree, index of its first response here, and the tree with these responses alone."""


def common_prefix(trees: Sequence[Tree]) -> int:
    """Length of what all prompts begin with, leaving every prompt at least its last token."""
    if len(trees) < 2:
        return 0
    first, last = min(t.prompt for t in trees), max(t.prompt for t in trees)
    length = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        length += 1
    return min(length, *(len(t.prompt) - 1 for t in trees))


def plan_batches(trees: Sequence[Tree], max_tokens: int, skip: int = 0) -> list[list[int]]:
    """Indices of trees in batches whose padded size stays within ``max_tokens``, longest first.

    The plan depends on the trees and the bound alone, so a resumed run computes the very same batches.
    """
    order = sorted(range(len(trees)), key=lambda i: (-trees[i].tokens, i))
    batches: list[list[int]] = []
    width = 0
    for index in order:
        if not batches or (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
            width = trees[index].tokens - skip
        batches[-1].append(index)
    return batches


def split_wide(trees: Sequence[Tree], max_tokens: int, skip: int = 0) -> list[Piece]:
    """Trees too wide for one batch, cut into several with the same prompt."""
    pieces = []
    for index, tree in enumerate(trees):
        start = 0
        while start < len(tree.responses):
            end, width = start + 1, len(tree.prompt) - skip + len(tree.responses[start]) - 1
            while end < len(tree.responses) and width + len(tree.responses[end]) - 1 <= max_tokens:
                width += len(tree.responses[end]) - 1
                end += 1
            pieces.append((index, start, Tree(tree.prompt, tree.responses[start:end])))
            start = end
    return pieces


def apart(pieces: Sequence[Piece]) -> list[Piece]:
    """Every response with a prompt of its own."""
    return [
        (tree, first + offset, Tree(piece.prompt, (response,)))
        for tree, first, piece in pieces
        for offset, response in enumerate(piece.responses)
    ]


def halves(pieces: Sequence[Piece]) -> tuple[Sequence[Piece], ...]:
    """A batch in two: by trees, or by the responses of a tree that is alone. Nothing where no cut is left."""
    if len(pieces) > 1:
        middle = len(pieces) // 2
        return pieces[:middle], pieces[middle:]
    tree, first, piece = pieces[0]
    middle = len(piece.responses) // 2
    if not middle:
        return ()
    return (
        [(tree, first, Tree(piece.prompt, piece.responses[:middle]))],
        [(tree, first + middle, Tree(piece.prompt, piece.responses[middle:]))],
    )
