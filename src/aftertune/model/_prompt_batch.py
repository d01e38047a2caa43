"""Prompts with their candidate answers, many in one forward pass, each prompt computed once.

A *tree* is a prompt and the responses scored on it. A batch of trees is one padded tensor in which every
response attends to its prompt and to itself but not to its siblings, and takes up positions where the prompt
ends. What all prompts begin with (a system prompt, a few-shot preamble) is encoded once and kept as a
key-value cache. Logits are computed only where a response token is predicted. Models that cannot share prompts
this way get every response with its prompt in a row of its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from aftertune.errors import AftertuneError, MemoryExhausted, NumericalError
from aftertune.model._libraries import is_shortage

if TYPE_CHECKING:
    import torch

    from aftertune.model._subject import Subject


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


MIN_SHARED_PREFIX = 4


@dataclass
class Prediction:
    """The logits that predict one response.

    Attributes:
        tree: index of the tree in the caller's list.
        response: index of the response in its tree.
        logits: fp32, shape (response tokens, vocabulary).
        targets: the response's token ids, shape (response tokens,).
    """

    tree: int
    response: int
    logits: torch.Tensor
    targets: torch.Tensor


class Forest:
    """Trees laid out for one subject: the shared prefix, the pieces, and the batches.

    Args:
        subject: whose model is asked.
        trees: what to predict.
        max_batch_tokens: bound for one pass; the subject's own if left out.
        sharing: whether to lay out responses to share their prompt; what the subject's trial says if left out.

    Raises:
        AftertuneError: a tree without prompt or responses.
    """

    def __init__(
        self,
        subject: Subject,
        trees: Sequence[Tree],
        max_batch_tokens: int | None = None,
        *,
        sharing: bool | None = None,
    ) -> None:
        self.subject = subject
        self.bound = max_batch_tokens or subject.max_batch_tokens
        if any(not tree.prompt or not tree.responses or not all(tree.responses) for tree in trees):
            raise AftertuneError("a tree needs a prompt and non-empty responses")
        self.sharing = subject.shares_prompts if sharing is None else sharing
        prefix = common_prefix(trees) if self.sharing else 0
        self.prefix = trees[0].prompt[:prefix] if prefix >= MIN_SHARED_PREFIX else ()
        skip = len(self.prefix)
        whole = [(index, 0, tree) for index, tree in enumerate(trees)]
        self.pieces = split_wide(trees, self.bound, skip) if self.sharing else apart(whole)
        self.batches = plan_batches([piece for _, _, piece in self.pieces], self.bound, skip)
        self._cache: Any = None

    def predict(self, batch: Sequence[int]) -> Iterator[Prediction]:
        """The predictions for one of `batches`; out of memory halves it, down to single responses.

        The batches do not depend on whether sharing holds at their length, which is found out here: what is known
        from an earlier run needs no trial either.

        Raises:
            MemoryExhausted: a single response with its prompt does not fit.
            NumericalError: the model gave NaN.
        """
        pieces = [self.pieces[i] for i in batch]
        if not self.sharing or self._sharing_reaches:
            yield from self._predict(pieces, self.sharing)
            return
        pieces = apart(pieces)
        for part in plan_batches([piece for _, _, piece in pieces], self.bound):
            yield from self._predict([pieces[i] for i in part], False)

    @functools.cached_property
    def _sharing_reaches(self) -> bool:
        trees = [piece for _, _, piece in self.pieces]
        width, depth = max(tree.tokens for tree in trees), max(tree.depth for tree in trees)
        return self.subject.shares_prompts_within(width, depth)

    def _predict(self, pieces: Sequence[Piece], sharing: bool) -> Iterator[Prediction]:
        import torch

        try:
            predictions = self.forward(pieces, sharing)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            predictions = None
        if predictions is not None:
            yield from predictions
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        parts = halves(pieces)
        if not parts:
            raise MemoryExhausted(
                f"{self.subject.identity.spec}: out of memory on a single example of "
                f"{pieces[0][2].depth} tokens; shorten it, or use a smaller --dtype or another --device"
            )
        # Later forests of this subject start from the bound that fits.
        self.subject.max_batch_tokens = max(1, min(self.subject.max_batch_tokens, self.bound) // 2)
        for half in parts:
            yield from self._predict(half, sharing)

    def _prefix_cache(self, rows: int) -> Any:
        import torch
        from transformers import DynamicCache

        if self._cache is None:
            ids = torch.tensor([self.prefix], device=self.subject.device)
            # No language-model head here: the decoder alone fills the cache. PEFT's layers sit inside it.
            model: Any = self.subject.model
            decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
            with torch.no_grad():
                self._cache = decoder(input_ids=ids, use_cache=True).past_key_values
        cache = DynamicCache()
        for index, layer in enumerate(self._cache.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
        return cache

    def forward(self, pieces: Sequence[Piece], sharing: bool) -> list[Prediction]:
        """One pass over ``pieces``, of one response each unless ``sharing``.

        Raises:
            NumericalError: the model gave NaN.
        """
        import torch

        prefix = self.prefix if sharing else ()
        layout = lay_out([piece for _, _, piece in pieces], len(prefix))
        inputs: dict[str, Any] = {}
        if sharing:
            device = self.subject.device
            dtype = self.subject.model.get_input_embeddings().weight.dtype
            inputs["attention_mask"] = layout.mask(dtype).to(device)
            inputs["position_ids"] = layout.positions.to(device)
        if prefix:
            inputs["past_key_values"] = self._prefix_cache(len(pieces))
            inputs["use_cache"] = True
        with torch.no_grad():
            logits = predicting_logits(self.subject, layout, **inputs)
        targets = layout.targets.to(logits.device)
        predictions, start = [], 0
        for tree, first, piece in pieces:
            for offset, response in enumerate(piece.responses):
                end = start + len(response)
                predictions.append(Prediction(tree, first + offset, logits[start:end].float(), targets[start:end]))
                start = end
        refuse_non_finite(self.subject, logits)
        return predictions


@dataclass
class _Layout:
    """Tensors of one batch. ``branch`` is 0 for prompt tokens, 1… for responses, -1 for padding."""

    ids: torch.Tensor
    positions: torch.Tensor
    branch: torch.Tensor
    prefix: int
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive attention mask, shape (rows, 1, width, prefix + width)."""
        import torch

        width = self.ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        key, query = self.branch[:, None, :], self.branch[:, :, None]
        allowed = causal & ((key == 0) | (key == query))
        # Padding sees itself (and the prefix), so that no row of the softmax is empty.
        allowed &= (query >= 0) | torch.eye(width, dtype=torch.bool)
        allowed = torch.nn.functional.pad(allowed, (self.prefix, 0), value=True)
        mask = torch.zeros(allowed.shape, dtype=dtype)
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def lay_out(trees: Sequence[Tree], prefix: int) -> _Layout:
    """The tensors of one batch, without the first ``prefix`` tokens of each prompt."""
    import torch

    width = max(tree.tokens for tree in trees) - prefix
    ids = torch.zeros(len(trees), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    branch = torch.full_like(ids, -1)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, tree in enumerate(trees):
        prompt = tree.prompt[prefix:]
        end = len(prompt)
        ids[row, :end] = torch.tensor(prompt)
        positions[row, :end] = torch.arange(prefix, prefix + end)
        branch[row, :end] = 0
        at = end
        for number, response in enumerate(tree.responses, 1):
            length = len(response) - 1  # nothing follows the last token, so the model need not read it
            ids[row, at : at + length] = torch.tensor(response[:-1], dtype=torch.long)
            positions[row, at : at + length] = torch.arange(prefix + end, prefix + end + length)
            branch[row, at : at + length] = number
            # The prompt's last token predicts the first of each response.
            columns += [end - 1, *range(at, at + length)]
            rows += [row] * len(response)
            targets += response
            at += length
    return _Layout(ids, positions, branch, prefix, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))


def predicting_logits(subject: Subject, layout: _Layout, **inputs: Any) -> torch.Tensor:
    """The logits that predict the responses' tokens, shape (response tokens, vocabulary), in the model's type.

    Args:
        subject: whose model is run.
        layout: the batch.
        inputs: what the model is given besides the ids; without a mask, that of a plain padded batch, which every
            architecture knows.
    """
    inputs.setdefault("attention_mask", (layout.branch >= 0).long().to(subject.device))
    inputs.setdefault("use_cache", False)
    with logits_only_at(subject, layout.rows, layout.columns):
        logits: torch.Tensor = subject.model(input_ids=layout.ids.to(subject.device), **inputs).logits
    if logits.shape[:-1] != (1, len(layout.columns)):  # the head is there, but was not called
        logits = logits[layout.rows.to(logits.device), layout.columns.to(logits.device)]
    return logits.reshape(-1, logits.shape[-1])


def refuse_non_finite(subject: Subject, logits: torch.Tensor) -> None:
    """Refuse to go on with what a broken model says.

    Raises:
        NumericalError: a logit is NaN or infinite.
    """
    import torch

    # One pass over many values, which NaN survives.
    if not bool(torch.isfinite(torch.stack(logits.aminmax())).all()):
        raise NumericalError(
            f"{subject.identity.spec}: the model gives NaN or infinite logits; "
            "check the checkpoint, or use --dtype float32"
        )


@contextlib.contextmanager
def logits_only_at(subject: Subject, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Give the output head only the hidden states at (rows, columns), so that no other logits are computed."""

    def select(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0]
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][None], *args[1:])

    handle = subject.model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
