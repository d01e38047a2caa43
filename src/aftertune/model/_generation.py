"""Sampled answers: batches bounded by tokens, prompts shared by their samples, true counts and stop reasons.

Rows of a batch are padded on the left and of similar length. Each distinct prompt is encoded once, however many
samples are drawn from it, and a row that has ended leaves the batch.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aftertune.errors import MemoryExhausted, SubjectError, UsageError
from aftertune.model._libraries import is_shortage
from aftertune.model._prompt_batches import (
    MIN_SHARED_PREFIX,
    PromptAnswers,
    common_prefix,
    logits_only_at,
    refuse_non_finite,
)
from aftertune.model._sampling import Sampling, choose_tokens

if TYPE_CHECKING:
    import torch

    from aftertune.model._subject import Subject

StopReason = Literal["stop", "max_tokens", "context"]

# Bytes of keys and values one batch may hold, and rows beyond which a step gets no cheaper per row.
_CACHE_BYTES = {"cpu": 2**30, "other": 2**32}
_ROWS = {"cpu": 128, "other": 256}


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to be sampled.

    Attributes:
        prompt: token ids up to where the assistant is to speak, or the first words of its answer.
        sampling: how.
        seed: the same seed, prompt and settings give the same answer.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


@dataclass(frozen=True)
class SampledToken:
    """A token of an answer, with log-probabilities in nats under the model itself (before temperature)."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Generation:
    """One sampled answer.

    Attributes:
        ids: the tokens sampled, the end-of-turn token included where there is one.
        text: the answer, without special tokens and cut before a stop string.
        stop_reason: "stop" (end of turn or a stop string), "max_tokens", or "context" (the model's context is full).
        tokens: log-probabilities, where they were asked for.
    """

    ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    tokens: tuple[SampledToken, ...] = ()


@dataclass
class _Row:
    """An answer in the making."""

    index: int
    request: GenerationRequest
    random: random.Random
    ids: list[int] = field(default_factory=list)
    tokens: list[SampledToken] = field(default_factory=list)
    stop_reason: StopReason | None = None
    text: str | None = None


def generate(
    subject: Subject,
    requests: Sequence[GenerationRequest],
    *,
    max_batch_tokens: int | None = None,
    finished: Callable[[int, Generation], None] = lambda index, generation: None,
) -> list[Generation]:
    """Sample an answer to every request, in the order given.

    Args:
        subject: whose answers.
        requests: what to sample; settings may differ from one to the next.
        max_batch_tokens: bound on rows times the longest prompt and answer; what keeps the keys and values of a
            batch within 1 GiB on a CPU and 4 GiB on an accelerator if left out. Out of memory halves a batch.
        finished: called with the index and the answer as each one ends.

    Raises:
        UsageError: a prompt is empty or fills the model's context.
        SubjectError: the model keeps no keys and values.
        NumericalError: the model gives NaN.
        MemoryExhausted: a single request does not fit.
    """
    answers: list[Generation | None] = [None] * len(requests)
    for index, request in enumerate(requests):
        if not 0 < len(request.prompt) < subject.context:
            raise UsageError(
                f"a prompt takes {len(request.prompt)} tokens, the context of {subject.identity.spec} holds "
                f"{subject.context} with the answer; shorten it"
            )
        if not all(0 <= token < subject.vocabulary for token in request.prompt):
            raise UsageError(f"request {index}: a token id is outside the vocabulary of {subject.identity.spec}")

    def done(row: _Row) -> None:
        answers[row.index] = answer = _answer(subject, row)
        finished(row.index, answer)

    for batch in plan_generation(subject, requests, max_batch_tokens):
        _run(subject, requests, batch, done)
    return [answer for answer in answers if answer is not None]


def plan_generation(
    subject: Subject, requests: Sequence[GenerationRequest], max_batch_tokens: int | None = None
) -> list[list[int]]:
    """Indices of requests by batch: similar lengths together, samples of one prompt side by side."""
    bound = max_batch_tokens or cache_tokens(subject)
    rows = batch_rows(subject)
    order = sorted(
        range(len(requests)),
        key=lambda i: (-_length(subject, requests[i]), -len(requests[i].prompt), requests[i].prompt),
    )
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        # The first of a batch is its longest.
        if not batches or (len(batches[-1]) + 1) * longest > bound or len(batches[-1]) == rows:
            batches.append([])
            longest = _length(subject, requests[index])
        batches[-1].append(index)
    return batches


def batch_rows(subject: Subject) -> int:
    """The most answers sampled at once."""
    return _ROWS["cpu" if subject.device.type == "cpu" else "other"]


def cache_tokens(subject: Subject) -> int:
    """How many tokens' keys and values fit into the memory set aside for a batch."""
    config = subject.model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    size = int(subject.model.get_input_embeddings().weight.element_size())
    each = 2 * int(config.num_hidden_layers) * kept * width * size
    return max(1, _CACHE_BYTES["cpu" if subject.device.type == "cpu" else "other"] // each)


def _length(subject: Subject, request: GenerationRequest) -> int:
    return min(len(request.prompt) + request.sampling.max_tokens, subject.context)


def _run(
    subject: Subject, requests: Sequence[GenerationRequest], batch: Sequence[int], done: Callable[[_Row], None]
) -> None:
    """One batch; where memory runs out, its halves, from their start: their seeds give the same answers."""
    import torch

    rows = _decode_batch(subject, requests, batch)
    if rows is not None:
        for row in rows:
            done(row)
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        raise MemoryExhausted(
            f"{subject.identity.spec}: out of memory on a single answer of {_length(subject, requests[batch[0]])} "
            "tokens; ask for fewer, or use a smaller --dtype or another --device"
        )
    middle = len(batch) // 2
    _run(subject, requests, batch[:middle], done)
    _run(subject, requests, batch[middle:], done)


def _decode_batch(subject: Subject, requests: Sequence[GenerationRequest], batch: Sequence[int]) -> list[_Row] | None:
    """The finished rows of a batch, or None where memory ran out."""
    rows = [_Row(i, requests[i], random.Random(requests[i].seed)) for i in batch]
    try:
        decoding = _Decoding(subject, rows)
        while decoding.rows:
            decoding.step()
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        return None
    return rows


class _Decoding:
    """A batch under way: rows that still speak, their keys and values, and the logits of their next token."""

    def __init__(self, subject: Subject, rows: Sequence[_Row]) -> None:
        import torch

        self.subject = subject
        self.rows = list(rows)
        self.ends = end_tokens(subject)
        self.positioned = takes_positions(subject.model)
        prompts = list(dict.fromkeys(row.request.prompt for row in rows))
        self.mask = torch.ones(1, 0, dtype=torch.long, device=subject.device)
        self.cache: Any = None
        skip = self._share(prompts)
        width = max(map(len, prompts)) - skip
        ids = torch.full((len(prompts), width), min(self.ends, default=0), dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for number, prompt in enumerate(prompts):
            ids[number, width - len(prompt) + skip :] = torch.tensor(prompt[skip:])
            mask[number, width - len(prompt) + skip :] = 1
        self.mask = torch.cat([self.mask.expand(len(prompts), -1), mask.to(subject.device)], 1)
        self.logits = self._last_logits(ids)
        place = {prompt: number for number, prompt in enumerate(prompts)}
        self._keep([place[row.request.prompt] for row in rows])

    def _share(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """Encode what all prompts begin with (a system prompt, examples) once; how many tokens that is."""
        import torch

        skip = common_prefix([PromptAnswers(prompt, ()) for prompt in prompts])
        # Padding would stand between it and the rest, which a window of attention would count.
        if skip < MIN_SHARED_PREFIX or len(prompts) == 1 or looks_back_only_so_far(self.subject.model):
            return 0
        self.mask = torch.ones(1, skip, dtype=torch.long, device=self.subject.device)
        self._last_logits(torch.tensor([prompts[0][:skip]]))
        self.cache.reorder_cache(torch.zeros(len(prompts), dtype=torch.long, device=self.subject.device))
        return skip

    def _last_logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits that follow the last column of ``ids``, shape (rows, vocabulary); no others are computed."""
        import torch

        rows, width = ids.shape
        with logits_only_at(self.subject, torch.arange(rows), torch.full((rows,), width - 1)):
            logits = self._forward(ids.to(self.subject.device))
        flat = logits.reshape(-1, logits.shape[-1])
        return flat if len(flat) == rows else logits[:, -1]  # else the head is there, but was not called

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        import torch

        from aftertune.model._growing_cache import let_grow

        inputs: dict[str, Any] = {"attention_mask": self.mask, "past_key_values": self.cache, "use_cache": True}
        if self.positioned:
            inputs["position_ids"] = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.no_grad():
            out = self.subject.model(input_ids=ids, **inputs)
        self.cache = getattr(out, "past_key_values", None)
        if self.cache is None:
            raise SubjectError(f"{self.subject.identity.spec}: its model keeps no keys and values, so it cannot answer")
        let_grow(self.cache)
        logits: torch.Tensor = out.logits
        return logits

    def _keep(self, places: Sequence[int]) -> None:
        """Go on with these rows of the batch, in this order; a row may be taken several times."""
        import torch

        if list(places) == list(range(len(self.mask))):
            return
        index = torch.tensor(places, device=self.mask.device)
        self.mask, self.logits = self.mask[index], self.logits[index.to(self.logits.device)]
        self.cache.reorder_cache(index)

    def step(self) -> None:
        """Choose a token for every row, let go of those that ended, and read the rest."""
        import torch

        logits = self.logits.float()
        refuse_non_finite(self.subject, logits)
        chosen = choose_tokens(
            logits, [row.request.sampling for row in self.rows], [row.random.random() for row in self.rows]
        )
        ids: list[int] = chosen.tolist()
        self._note_logprobs(logits, ids)
        for row, token in zip(self.rows, ids, strict=True):
            row.ids.append(token)
            row.stop_reason = self._ended(row)
        going = [place for place, row in enumerate(self.rows) if row.stop_reason is None]
        self.rows = [self.rows[place] for place in going]
        if not self.rows:
            return
        self._keep(going)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        step = torch.tensor([[row.ids[-1]] for row in self.rows], device=self.subject.device)
        self.logits = self._forward(step)[:, -1]

    def _note_logprobs(self, logits: torch.Tensor, ids: Sequence[int]) -> None:
        for place, row in enumerate(self.rows):
            count = row.request.sampling.top_logprobs
            if count is None:
                continue
            logp = logits[place].log_softmax(-1)
            values, tops = logp.topk(min(count, len(logp)))
            pairs = tuple(zip(tops.tolist(), values.tolist(), strict=True))
            row.tokens.append(SampledToken(ids[place], float(logp[ids[place]]), pairs))

    def _ended(self, row: _Row) -> StopReason | None:
        if row.ids[-1] in self.ends:
            return "stop"
        if row.request.sampling.stop:
            text = decode(self.subject, row.ids)
            cuts = [at for at in (text.find(s) for s in row.request.sampling.stop) if at >= 0]
            if cuts:
                row.text = text[: min(cuts)]
                return "stop"
        if len(row.ids) >= row.request.sampling.max_tokens:
            return "max_tokens"
        return "context" if len(row.request.prompt) + len(row.ids) >= self.subject.context else None


def _answer(subject: Subject, row: _Row) -> Generation:
    assert row.stop_reason is not None
    text = decode(subject, row.ids) if row.text is None else row.text
    return Generation(tuple(row.ids), text, row.stop_reason, tuple(row.tokens))


def decode(subject: Subject, ids: Sequence[int]) -> str:
    """The text of sampled tokens, special ones left out and spaces left as they are."""
    return str(subject.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def end_tokens(subject: Subject) -> frozenset[int]:
    """The tokens that end an answer: those of the model's generation config and of its tokenizer."""
    configured = getattr(subject.model.generation_config, "eos_token_id", None)
    ends = set(configured) if isinstance(configured, list | tuple) else {configured}
    return frozenset(int(i) for i in ends | {subject.tokenizer.eos_token_id} if i is not None)


def takes_positions(model: Any) -> bool:
    """Whether the model's forward pass knows position ids."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(inner.forward).parameters


def looks_back_only_so_far(model: Any) -> bool:
    """Whether some layer attends to a window or a chunk, by its configuration."""
    config = model.config.get_text_config()
    return any(getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size"))
