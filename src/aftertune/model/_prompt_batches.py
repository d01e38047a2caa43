"""Prompts with their candidate answers, many in one forward pass, each prompt computed once.

A *case* is a prompt and the responses scored on it. A batch of cases is one padded tensor in which every
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
class PromptAnswers:
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


Part: TypeAlias = tuple[int, int, PromptAnswers]
"""Index of the original case, index of its first response here, and the case with these responses alone."""


def common_prefix(cases: Sequence[PromptAnswers]) -> int:
    """Length of what all prompts begin with, leaving every prompt at least its last token."""
    if len(cases) < 2:
        return 0
    first, last = min(t.prompt for t in cases), max(t.prompt for t in cases)
    length = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        length += 1
    return min(length, *(len(t.prompt) - 1 for t in cases))


def plan_batches(cases: Sequence[PromptAnswers], max_tokens: int, skip: int = 0) -> list[list[int]]:
    """Indices of cases in batches whose padded size stays within ``max_tokens``, longest first.

    The plan depends on the cases and the bound alone, so a resumed run computes the very same batches.
    """
    order = sorted(range(len(cases)), key=lambda i: (-cases[i].tokens, i))
    batches: list[list[int]] = []
    width = 0
    for index in order:
        if not batches or (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
            width = cases[index].tokens - skip
        batches[-1].append(index)
    return batches


def split_wide(cases: Sequence[PromptAnswers], max_tokens: int, skip: int = 0) -> list[Part]:
    """Cases too wide for one batch, cut into several with the same prompt."""
    parts = []
    for index, case in enumerate(cases):
        start = 0
        while start < len(case.responses):
            end, width = start + 1, len(case.prompt) - skip + len(case.responses[start]) - 1
            while end < len(case.responses) and width + len(case.responses[end]) - 1 <= max_tokens:
                width += len(case.responses[end]) - 1
                end += 1
            parts.append((index, start, PromptAnswers(case.prompt, case.responses[start:end])))
            start = end
    return parts


def apart(parts: Sequence[Part]) -> list[Part]:
    """Every response with a prompt of its own."""
    return [
        (case, first + offset, PromptAnswers(part.prompt, (response,)))
        for case, first, part in parts
        for offset, response in enumerate(part.responses)
    ]


def halves(parts: Sequence[Part]) -> tuple[Sequence[Part], ...]:
    """A batch in two: by cases, or by the responses of a case that is alone. Nothing where no cut is left."""
    if len(parts) > 1:
        middle = len(parts) // 2
        return parts[:middle], parts[middle:]
    case, first, part = parts[0]
    middle = len(part.responses) // 2
    if not middle:
        return ()
    return (
        [(case, first, PromptAnswers(part.prompt, part.responses[:middle]))],
        [(case, first + middle, PromptAnswers(part.prompt, part.responses[middle:]))],
    )


MIN_SHARED_PREFIX = 4


@dataclass
class Prediction:
    """The logits that predict one response.

    Attributes:
        case: index of the case in the caller's list.
        response: index of the response in its case.
        logits: fp32, shape (response tokens, vocabulary).
        targets: the response's token ids, shape (response tokens,).
    """

    case: int
    response: int
    logits: torch.Tensor
    targets: torch.Tensor


class PromptBatches:
    """Cases laid out for one subject: the shared prefix, the parts, and the batches.

    Args:
        subject: whose model is asked.
        cases: what to predict.
        max_batch_tokens: bound for one pass; the subject's own if left out.
        sharing: whether to lay out responses to share their prompt; what the subject's trial says if left out.

    Raises:
        AftertuneError: a case without prompt or responses.
    """

    def __init__(
        self,
        subject: Subject,
        cases: Sequence[PromptAnswers],
        max_batch_tokens: int | None = None,
        *,
        sharing: bool | None = None,
    ) -> None:
        self.subject = subject
        self.bound = max_batch_tokens or subject.max_batch_tokens
        if any(not case.prompt or not case.responses or not all(case.responses) for case in cases):
            raise AftertuneError("a case needs a prompt and non-empty responses")
        self.sharing = subject.shares_prompts if sharing is None else sharing
        prefix = common_prefix(cases) if self.sharing else 0
        self.prefix = cases[0].prompt[:prefix] if prefix >= MIN_SHARED_PREFIX else ()
        skip = len(self.prefix)
        whole = [(index, 0, case) for index, case in enumerate(cases)]
        self.parts = split_wide(cases, self.bound, skip) if self.sharing else apart(whole)
        self.batches = plan_batches([part for _, _, part in self.parts], self.bound, skip)
        self._cache: Any = None

    def predict(self, batch: Sequence[int]) -> Iterator[Prediction]:
        """The predictions for one of `batches`; out of memory halves it, down to single responses.

        The batches do not depend on whether sharing holds at their length, which is found out here: what is known
        from an earlier run needs no trial either.

        Raises:
            MemoryExhausted: a single response with its prompt does not fit.
            NumericalError: the model gave NaN.
        """
        parts = [self.parts[i] for i in batch]
        if not self.sharing or self._sharing_reaches:
            yield from self._predict(parts, self.sharing)
            return
        parts = apart(parts)
        for indices in plan_batches([part for _, _, part in parts], self.bound):
            yield from self._predict([parts[i] for i in indices], False)

    @functools.cached_property
    def _sharing_reaches(self) -> bool:
        cases = [part for _, _, part in self.parts]
        width, depth = max(case.tokens for case in cases), max(case.depth for case in cases)
        return self.subject.shares_prompts_within(width, depth)

    def _predict(self, parts: Sequence[Part], sharing: bool) -> Iterator[Prediction]:
        import torch

        try:
            predictions = self.forward(parts, sharing)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            predictions = None
        if predictions is not None:
            yield from predictions
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halved = halves(parts)
        if not halved:
            raise MemoryExhausted(
                f"{self.subject.identity.spec}: out of memory on a single example of "
                f"{parts[0][2].depth} tokens; shorten it, or use a smaller --dtype or another --device"
            )
        # Later layouts of this subject start from the bound that fits.
        self.subject.max_batch_tokens = max(1, min(self.subject.max_batch_tokens, self.bound) // 2)
        for half in halved:
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

    def forward(self, parts: Sequence[Part], sharing: bool) -> list[Prediction]:
        """One pass over ``parts``, of one response each unless ``sharing``.

        Raises:
            NumericalError: the model gave NaN.
        """
        import torch

        prefix = self.prefix if sharing else ()
        layout = lay_out([part for _, _, part in parts], len(prefix))
        inputs: dict[str, Any] = {}
        if sharing:
            device = self.subject.device
            dtype = self.subject.model.get_input_embeddings().weight.dtype
            inputs["attention_mask"] = layout.mask(dtype).to(device)
            inputs["position_ids"] = layout.positions.to(device)
        if prefix:
            inputs["past_key_values"] = self._prefix_cache(len(parts))
            inputs["use_cache"] = True
        with torch.no_grad():
            logits = predicting_logits(self.subject, layout, **inputs)
        targets = layout.targets.to(logits.device)
        predictions, start = [], 0
        for case, first, part in parts:
            for offset, response in enumerate(part.responses):
                end = start + len(response)
                predictions.append(Prediction(case, first + offset, logits[start:end].float(), targets[start:end]))
                start = end
        refuse_non_finite(self.subject, logits)
        return predictions


@dataclass
class _Layout:
    """Tensors of one batch. ``answer`` is 0 for prompt tokens, 1… for responses, -1 for padding."""

    ids: torch.Tensor
    positions: torch.Tensor
    answer: torch.Tensor
    prefix: int
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive attention mask, shape (rows, 1, width, prefix + width)."""
        import torch

        width = self.ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        key, query = self.answer[:, None, :], self.answer[:, :, None]
        allowed = causal & ((key == 0) | (key == query))
        # Padding sees itself (and the prefix), so that no row of the softmax is empty.
        allowed &= (query >= 0) | torch.eye(width, dtype=torch.bool)
        allowed = torch.nn.functional.pad(allowed, (self.prefix, 0), value=True)
        mask = torch.zeros(allowed.shape, dtype=dtype)
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def lay_out(cases: Sequence[PromptAnswers], prefix: int) -> _Layout:
    """The tensors of one batch, without the first ``prefix`` tokens of each prompt."""
    import torch

    width = max(case.tokens for case in cases) - prefix
    ids = torch.zeros(len(cases), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    answer = torch.full_like(ids, -1)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, case in enumerate(cases):
        prompt = case.prompt[prefix:]
        end = len(prompt)
        ids[row, :end] = torch.tensor(prompt)
        positions[row, :end] = torch.arange(prefix, prefix + end)
        answer[row, :end] = 0
        at = end
        for number, response in enumerate(case.responses, 1):
            length = len(response) - 1  # nothing follows the last token, so the model need not read it
            ids[row, at : at + length] = torch.tensor(response[:-1], dtype=torch.long)
            positions[row, at : at + length] = torch.arange(prefix + end, prefix + end + length)
            answer[row, at : at + length] = number
            # The prompt's last token predicts the first of each response.
            columns += [end - 1, *range(at, at + length)]
            rows += [row] * len(response)
            targets += response
            at += length
    return _Layout(ids, positions, answer, prefix, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))


def predicting_logits(subject: Subject, layout: _Layout, **inputs: Any) -> torch.Tensor:
    """The logits that predict the responses' tokens, shape (response tokens, vocabulary), in the model's type.

    Args:
        subject: whose model is run.
        layout: the batch.
        inputs: what the model is given besides the ids; without a mask, that of a plain padded batch, which every
            architecture knows.
    """
    inputs.setdefault("attention_mask", (layout.answer >= 0).long().to(subject.device))
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
