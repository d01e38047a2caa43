"""Whether responses may share an encoded prompt: tried on small examples against plain passes, never assumed.

State-space layers and biases by distance ignore our mask or positions. Attention within a window or a chunk is
right only as long as no row reaches beyond it. Neither is told reliably by a configuration, so what counts is that
the numbers agree, at the size in question. Models that fail are scored without sharing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aftertune.model._forest import Forest, logits_only_at
from aftertune.model._trees import Tree

if TYPE_CHECKING:
    import torch

    from aftertune.model._subject import Subject

# Largest difference of logits by position, root mean square over the vocabulary, in units of their spread. Half
# precision rounds the two ways of computing differently; a wrong mask is off by more (about 0.4 and up).
TOLERANCE = {"bfloat16": 0.3, "float16": 0.06}
FULL_TOLERANCE = 2e-3

SMALL_WIDTH, SMALL_DEPTH = 16, 13
_REACH = re.compile(r"(^|_)(window|chunk)(_size|_len|_length)?$")


def sharing_is_exact(subject: Subject) -> bool:
    """Try shared prompts on a small example: two trees in one batch, several responses, a common prefix.

    Raises:
        NumericalError: the model gives NaN.
    """
    pick = _tokens(subject, 24)
    trees = [
        Tree(pick[:8], (pick[8:12], pick[12:14])),
        Tree(pick[:6] + pick[14:17], (pick[17:20], pick[20:24])),
    ]
    places = [(i, j) for i, tree in enumerate(trees) for j in range(len(tree.responses))]
    return _agrees(subject, trees, [0, 1], places, _plain)


def sharing_reaches(subject: Subject, width: int, depth: int) -> bool:
    """Whether sharing stays exact for rows of ``width`` tokens with paths of ``depth`` tokens.

    What was exact for longer rows is taken to be so for shorter ones; else one row of the size is tried.

    Raises:
        NumericalError: the model gives NaN.
    """
    if width <= SMALL_WIDTH and depth <= SMALL_DEPTH:
        return True
    if width > _declared_reach(subject):
        return False
    for (wide, deep), exact in subject.trials.items():
        if exact and width <= wide and depth <= deep:
            return True
        if not exact and width >= wide and depth >= deep:
            return False
    subject.trials[width, depth] = exact = _exact_at(subject, width, depth)
    return exact


def _exact_at(subject: Subject, width: int, depth: int) -> bool:
    """Compare the last response of one long row, the first half of its prompt coming from the cache."""
    pick = _tokens(subject, width + 1)
    tail = min(8, depth - 1)
    start, half = depth - tail, (depth - tail) // 2
    prompt, last, filling = pick[:start], pick[start:depth], pick[depth:width]
    siblings = (filling[i : i + tail] for i in range(0, len(filling), tail))
    long = Tree(prompt, (*siblings, last))
    # Never computed: it is there to have something in common with.
    other = Tree((*prompt[:half], pick[width]), (last,))
    return _agrees(subject, [long, other], [0], [(0, len(long.responses) - 1)], _plain_and_lean)


def _agrees(
    subject: Subject,
    trees: Sequence[Tree],
    rows: Sequence[int],
    places: Sequence[tuple[int, int]],
    plain_pass: Callable[[Subject, tuple[int, ...], tuple[int, ...]], torch.Tensor],
) -> bool:
    """Whether laying out the trees of ``rows`` gives the same as plain passes at ``places`` (tree, response)."""
    tolerance = TOLERANCE.get(subject.identity.dtype, FULL_TOLERANCE)
    try:
        forest = Forest(subject, trees, 10**9, sharing=True)
        found = {(p.tree, p.response): p.logits for p in forest.forward([forest.pieces[i] for i in rows], True)}
        for tree, response in places:
            plain = plain_pass(subject, trees[tree].prompt, trees[tree].responses[response])
            difference = (found[tree, response] - plain.to(found[tree, response].device)).square().mean(-1).sqrt()
            if not float(difference.max()) <= tolerance * (float(plain.std()) + 1e-6):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError, MemoryError):
        return False
    return True


def _plain(subject: Subject, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """Logits that predict ``response``, from one row without mask, positions, cache or hook of ours."""
    import torch

    ids = torch.tensor([prompt + response], device=subject.device)
    with torch.no_grad():
        logits: torch.Tensor = subject.model(input_ids=ids, use_cache=False).logits[0]
    return logits[-len(response) - 1 : -1].float()


def _plain_and_lean(subject: Subject, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """The same without the memory for logits of the whole row; the small example has shown that this works."""
    import torch

    columns = torch.arange(-len(response) - 1, 0)
    with logits_only_at(subject, torch.zeros_like(columns), columns):
        return _plain(subject, prompt, response)


def _tokens(subject: Subject, count: int) -> tuple[int, ...]:
    vocabulary = subject.vocabulary
    return tuple(1 + (7919 * i) % (vocabulary - 1) for i in range(count))


def _declared_reach(subject: Subject) -> float:
    """The shortest window or chunk that the configuration names, under whichever name; infinite if none."""
    config = subject.model.config.get_text_config().to_dict()
    spans = [value for name, value in config.items() if _REACH.search(name) and type(value) is int and value > 0]
    return min(spans, default=float("inf"))
