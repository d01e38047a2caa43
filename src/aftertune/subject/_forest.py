"""One forward pass over prompts whose answers branch off: shared tokens are computed once.

A *tree* is a prompt and the responses scored on it. A batch of trees is one padded tensor in which every
response attends to its prompt and to itself but not to its siblings, and takes up positions where the prompt
ends. What all prompts begin with (a system prompt, a few-shot preamble) is encoded once and kept as a
key-value cache. Logits are computed only where a response token is predicted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftertune.errors import AftertuneError, MemoryExhausted, NumericalError

if TYPE_CHECKING:
    import torch

    from aftertune.subject._subject import Subject

MIN_SHARED_PREFIX = 4


@dataclass(frozen=True)
class Tree:
    """A prompt and the responses scored on it, as token ids."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Distinct tokens."""
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def depth(self) -> int:
        """Tokens on the longest path: what must fit the model's context."""
        return len(self.prompt) + max(map(len, self.responses))


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


def split_wide(trees: Sequence[Tree], max_tokens: int, skip: int = 0) -> list[tuple[int, int, Tree]]:
    """Trees too wide for one batch, cut into several with the same prompt.

    Returns:
        (index of the original tree, index of its first response, the piece) for every piece.
    """
    pieces = []
    for index, tree in enumerate(trees):
        start = 0
        while start < len(tree.responses):
            end, width = start + 1, len(tree.prompt) - skip + len(tree.responses[start])
            while end < len(tree.responses) and width + len(tree.responses[end]) <= max_tokens:
                width += len(tree.responses[end])
                end += 1
            pieces.append((index, start, Tree(tree.prompt, tree.responses[start:end])))
            start = end
    return pieces


class Forest:
    """Trees laid out for one subject: the shared prefix, the pieces, and the batches.

    Args:
        subject: whose model is asked.
        trees: what to predict.
        max_batch_tokens: bound for one pass; the subject's own if left out.
    """

    def __init__(self, subject: Subject, trees: Sequence[Tree], max_batch_tokens: int | None = None) -> None:
        self.subject = subject
        self.bound = max_batch_tokens or subject.max_batch_tokens
        if any(not tree.prompt or not tree.responses or not all(tree.responses) for tree in trees):
            raise AftertuneError("a tree needs a prompt and non-empty responses")
        self.sharing = subject.shares_prompts and not _exceeds_window(subject, trees)
        prefix = common_prefix(trees) if self.sharing else 0
        self.prefix = trees[0].prompt[:prefix] if prefix >= MIN_SHARED_PREFIX else ()
        skip = len(self.prefix)
        if self.sharing:
            pieces = split_wide(trees, self.bound, skip)
        else:
            pieces = [
                (i, j, Tree(tree.prompt, (response,)))
                for i, tree in enumerate(trees)
                for j, response in enumerate(tree.responses)
            ]
        self.pieces = pieces
        self.batches = plan_batches([piece for _, _, piece in pieces], self.bound, skip)
        self._cache: Any = None

    @property
    def distinct_tokens(self) -> int:
        """Tokens that go through the model, padding left out."""
        skip = len(self.prefix)
        return skip + sum(piece.tokens - skip for _, _, piece in self.pieces)

    def predict(self, batch: Sequence[int]) -> Iterator[Prediction]:
        """The predictions for one of `batches`; out of memory halves it, down to single trees.

        Raises:
            MemoryExhausted: a single tree does not fit.
            NumericalError: the model gave NaN.
        """
        import torch

        try:
            with torch.no_grad():
                predictions = self._forward(batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            predictions = None
        if predictions is not None:
            yield from predictions
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise MemoryExhausted(
                f"{self.subject.identity.spec}: out of memory on a single example of "
                f"{self.pieces[batch[0]][2].tokens} tokens; shorten it, or use a smaller --dtype or another --device"
            )
        # Later forests of this subject start from the bound that fits.
        self.subject.max_batch_tokens = max(1, min(self.subject.max_batch_tokens, self.bound) // 2)
        half = len(batch) // 2
        yield from self.predict(batch[:half])
        yield from self.predict(batch[half:])

    def _prefix_cache(self, rows: int) -> Any:
        import torch
        from transformers import DynamicCache

        if self._cache is None:
            ids = torch.tensor([self.prefix], device=self.subject.device)
            # No language-model head here: the decoder alone fills the cache.
            decoder = self.subject.model.base_model
            decoder = getattr(decoder, "model", decoder) if hasattr(self.subject.model, "peft_config") else decoder
            with select_positions(self.subject, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)):
                self._cache = decoder(input_ids=ids, use_cache=True).past_key_values
        cache = DynamicCache()
        for index, layer in enumerate(self._cache.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
        return cache

    def _forward(self, batch: Sequence[int]) -> list[Prediction]:
        import torch

        layout = lay_out([self.pieces[i][2] for i in batch], len(self.prefix))
        device, model = self.subject.device, self.subject.model
        inputs: dict[str, Any] = {
            "input_ids": layout.ids.to(device),
            "position_ids": layout.positions.to(device),
        }
        if self.sharing:
            dtype = model.get_input_embeddings().weight.dtype
            inputs["attention_mask"] = layout.mask(dtype).to(device)
        else:
            inputs["attention_mask"] = (layout.branch >= 0).long().to(device)
        if self.prefix:
            inputs["past_key_values"] = self._prefix_cache(len(batch))
        with select_positions(self.subject, layout.rows, layout.columns):
            logits = model(**inputs, use_cache=bool(self.prefix)).logits
        logits = logits.reshape(-1, logits.shape[-1])
        targets = layout.targets.to(logits.device)
        predictions, start = [], 0
        for place in batch:
            tree, first, piece = self.pieces[place]
            for offset, response in enumerate(piece.responses):
                end = start + len(response)
                predictions.append(Prediction(tree, first + offset, logits[start:end].float(), targets[start:end]))
                start = end
        if not bool(torch.isfinite(logits).all()):
            raise NumericalError(
                f"{self.subject.identity.spec}: the model gives NaN or infinite logits; "
                "check the checkpoint, or use --dtype float32"
            )
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
            length = len(response)
            ids[row, at : at + length] = torch.tensor(response)
            positions[row, at : at + length] = torch.arange(prefix + end, prefix + end + length)
            branch[row, at : at + length] = number
            # The prompt's last token predicts the first of each response.
            columns += [end - 1, *range(at, at + length - 1)]
            rows += [row] * length
            targets += response
            at += length
    return _Layout(ids, positions, branch, prefix, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))


@contextlib.contextmanager
def select_positions(subject: Subject, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Give the output head only the hidden states at (rows, columns), so that no other logits are computed."""

    def select(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0]
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][None], *args[1:])

    handle = subject.model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _exceeds_window(subject: Subject, trees: Sequence[Tree]) -> bool:
    """Whether a sliding attention window is shorter than a laid-out tree, which our mask does not model."""
    window = getattr(subject.model.config.get_text_config(), "sliding_window", None)
    return window is not None and max((tree.tokens for tree in trees), default=0) > int(window)


def sharing_is_exact(subject: Subject, tolerance: float = 5e-3) -> bool:
    """Try shared prompts on a small example against plain passes.

    Architectures that ignore position ids or our attention mask (state-space layers, ALiBi, …) give other
    numbers and are then scored without sharing.
    """
    import torch

    vocabulary = subject.vocabulary
    pick = [1 + (7919 * i) % (vocabulary - 1) for i in range(24)]
    trees = [
        Tree(tuple(pick[:8]), (tuple(pick[8:12]), tuple(pick[12:14]))),
        Tree(tuple(pick[:6] + pick[14:17]), (tuple(pick[17:20]), tuple(pick[20:24]))),
    ]
    subject.__dict__["shares_prompts"] = True
    try:
        shared = Forest(subject, trees, 10**6)
        got = [p for batch in shared.batches for p in shared.predict(batch)]
        for p in got:
            tree = trees[p.tree]
            response = tree.responses[p.response]
            ids = torch.tensor([tree.prompt + response], device=subject.device)
            with torch.no_grad():
                plain = subject.model(input_ids=ids).logits[0, len(tree.prompt) - 1 : -1].float()
            # Half precision rounds the two paths differently; a wrong mask is off by far more.
            allowed = tolerance if plain.dtype == torch.float32 and subject.identity.dtype == "float32" else 0.1
            scale = float(plain.std()) + 1e-6
            if not float((p.logits - plain.to(p.logits.device)).abs().max()) <= allowed * max(1.0, scale):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return False
    finally:
        subject.__dict__.pop("shares_prompts", None)
    return True
