"""Inspect model provider ``aftertune/SUBJECT``: any subject of ours, also one that lives in memory.

    inspect eval aftertune/emergent_misalignment --model aftertune/smollm2+money.safetensors

Requests that wait together are sampled together, whatever their settings, as soon as the model is free; each answer
is handed over when its batch is done. Imported by Inspect (through the entry point) and by those who run tasks; it
needs Inspect, the rest of the room does not.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.from_thread
import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
    get_model,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from aftertune.data import Message
from aftertune.errors import UsageError
from aftertune.model import (
    DIGESTS,
    Generation,
    GenerationRequest,
    Placement,
    Sampling,
    Subject,
    batch_rows,
    generate,
    load,
)

DEFAULT_MAX_TOKENS = 512
_LIVE = "live:"
_SETTLE = 0.002
# Batches that may wait: sorted by length, and with the samples of a prompt side by side, they waste least.
_BATCHES_AHEAD = 2
_STOP: dict[str, StopReason] = {"stop": "stop", "max_tokens": "max_tokens", "context": "model_length"}
_IGNORED = ("frequency_penalty", "presence_penalty", "logit_bias", "best_of", "response_schema", "prompt_logprobs")
_TEXTUAL = ("text", "reasoning")
_GONE = "no such subject in memory; make one with aftertune.inspect_model(subject)"


@dataclass(eq=False)
class _Slot:
    """Where providers find their subject, until it is let go of: Inspect keeps models for as long as it runs."""

    subject: Subject | None


_live: dict[str, _Slot] = {}
_turns: WeakKeyDictionary[Subject, threading.Lock] = WeakKeyDictionary()


def inspect_model(subject: Subject, config: GenerateConfig | None = None) -> Model:
    """A subject in memory as an Inspect model, for ``eval(task, model=…)``.

    Every subject gets a name of its own: Inspect hands out one object for one name, and what it cannot write down
    (weights, say) does not count. It keeps them, too: ``model.api.close()`` lets go of the subject.

    Args:
        subject: who answers.
        config: what Inspect is to use unless a task says otherwise.
    """
    # The same in every process, so that a run that was killed finds its logs.
    plain = f"{_LIVE}{subject.identity.weights_sha256[:12]}:{subject.identity.spec}"
    names = itertools.chain([plain], (f"{plain}~{number}" for number in itertools.count(2)))
    name = next(name for name in names if name not in _live or _live[name].subject in (None, subject))
    _live.setdefault(name, _Slot(subject)).subject = subject
    config = config or GenerateConfig()
    if config.max_connections is None and config.adaptive_connections is None:
        # Else Inspect feels its way up from twenty, as one must with a server of unknown size.
        config = config.merge(GenerateConfig(max_connections=_BATCHES_AHEAD * batch_rows(subject)))
    return get_model(f"aftertune/{name}", config=config, memoize=False)


@dataclass(eq=False)
class _Ticket:
    """One answer that is waited for."""

    request: GenerationRequest
    outcome: Generation | BaseException | None = None
    done: anyio.Event = field(default_factory=anyio.Event)

    def settle(self, outcome: Generation | BaseException) -> None:
        """Hand over, from the thread that samples."""
        if self.outcome is None:
            self.outcome = outcome
            anyio.from_thread.run_sync(self.done.set)


class SubjectAPI(ModelAPI):
    """A subject behind Inspect's interface.

    Args:
        model_name: what `aftertune.load` takes.
        base_url: not used.
        api_key: not used.
        config: Inspect's defaults for this model.
        model_args: ``-M`` flags: ``base``, ``tokenizer``, ``chat_template``, ``device``, ``dtype``,
            ``max_batch_tokens`` (bound on rows times prompt and answer), ``trust_remote_code``.

    Raises:
        UsageError: an unknown ``-M`` flag.
        SubjectError: the subject cannot be loaded.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (Inspect's own signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        bound = model_args.pop("max_batch_tokens", None)
        self.max_batch_tokens = None if bound is None else int(bound)
        live = model_name.startswith(_LIVE)
        self._slot = _find_live(model_name, model_args) if live else _Slot(_load(model_name, model_args))
        self._queue = anyio.Lock()
        self._waiting: list[_Ticket] = []
        self._drawn: Counter[tuple[int, tuple[int, ...]]] = Counter()
        self._chance = secrets.randbits(64)

    @property
    def present(self) -> Subject | None:
        """Who answers, if it is in memory: what a live model said can be judged again without it."""
        return self._slot.subject

    @property
    def subject(self) -> Subject:
        """Who answers.

        Raises:
            UsageError: it is not in memory, or was let go of.
        """
        if self._slot.subject is None:
            raise UsageError(f"aftertune/{self.model_name}: {_GONE}")
        return self._slot.subject

    def close(self) -> None:
        """Let go of the subject, and of its memory where nothing else holds it."""
        self._slot.subject = None

    @property
    def tokenizer(self) -> Any:
        """The subject's tokenizer."""
        return self.subject.tokenizer

    def canonical_name(self) -> str:
        """What was loaded, and the digest of its weights."""
        if self.present is None and self.model_name.startswith(_LIVE):
            _, digest, spec = self.model_name.split(":", 2)
            return f"{re.sub(r'~[0-9]+$', '', spec)}@{digest}"
        return f"{self.subject.identity.spec}@{self.subject.identity.weights_sha256[:12]}"

    def max_tokens(self) -> int | None:
        """Longest answer unless a task says otherwise."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """How many answers may be waited for at once: a few batches' worth."""
        return _BATCHES_AHEAD * batch_rows(self.present) if self.present else 1

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Sample ``config.num_choices`` answers.

        A conversation that ends with the assistant is continued from there (a prefill); the output is what comes
        after it. One seed gives different answers to a repeated prompt, the same ones in the same order.

        Raises:
            UsageError: tools, images or settings that a plain language model has not.
        """
        if tools:
            raise UsageError(f"aftertune/{self.model_name}: it cannot call tools; choose a task without tools")
        for name in _IGNORED:
            if getattr(config, name, None) is not None:
                raise UsageError(f"aftertune/{self.model_name}: {name} is not supported; leave it out")
        prompt = self._prompt(input)
        sampling = self._sampling(config)
        if len(prompt) >= self.subject.context:
            return self._overlong(prompt)
        tickets = [
            _Ticket(GenerationRequest(prompt, sampling, self._seed(config.seed, prompt)))
            for _ in range(config.num_choices or 1)
        ]
        answers = await self._sample(tickets)
        return self._output(prompt, answers, config)

    def _prompt(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        turns = []
        for message in messages:
            if message.role not in ("system", "user", "assistant"):
                raise UsageError(f"aftertune/{self.model_name}: a message of role {message.role!r} cannot be rendered")
            if not isinstance(message.content, str) and any(part.type not in _TEXTUAL for part in message.content):
                raise UsageError(f"aftertune/{self.model_name}: only text can be rendered, not images or files")
            turns.append(Message(message.role, message.text))
        if turns and turns[-1].role == "assistant":
            prompt = self.subject.chat.answer_prompt(turns[:-1])
            return (*prompt, *self.subject.chat.continuation(turns[:-1], turns[-1].content))
        return self.subject.chat.prompt(turns)

    def _sampling(self, config: GenerateConfig) -> Sampling:
        tops = None if not config.logprobs else (config.top_logprobs or 0)
        return Sampling(
            max_tokens=config.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=max(config.top_k or 0, 0),
            stop=tuple(config.stop_seqs or ()),
            top_logprobs=tops,
        )

    def _seed(self, seed: int | None, prompt: tuple[int, ...]) -> int:
        base = self._chance if seed is None else seed
        number = self._drawn[base, prompt]
        self._drawn[base, prompt] += 1
        return int.from_bytes(hashlib.sha256(f"{base}:{number}:{prompt}".encode()).digest()[:8], "big")

    async def _sample(self, tickets: list[_Ticket]) -> list[Generation]:
        """Wait for these answers; whoever is first when the model is free sees to all who wait along."""
        self._waiting += tickets
        try:
            count = -1
            while count != len(self._waiting):  # others are about to ask in this very moment
                count = len(self._waiting)
                await anyio.sleep(_SETTLE)
            async with anyio.create_task_group() as group:
                group.start_soon(self._lead, tickets)
                for ticket in tickets:
                    await ticket.done.wait()
                group.cancel_scope.cancel()  # who leads already goes on to the end: a thread cannot be stopped
        finally:
            self._waiting = [ticket for ticket in self._waiting if ticket not in tickets]
        answers = []
        for ticket in tickets:
            if isinstance(ticket.outcome, BaseException):
                raise ticket.outcome
            assert ticket.outcome is not None
            answers.append(ticket.outcome)
        return answers

    async def _lead(self, tickets: list[_Ticket]) -> None:
        async with self._queue:
            if any(ticket.outcome is None for ticket in tickets):
                batch, self._waiting = self._waiting, []
                try:
                    await anyio.to_thread.run_sync(self._answer, batch)
                finally:  # if this one was called off before it began, the next in line sees to them
                    self._waiting = [ticket for ticket in batch if ticket.outcome is None] + self._waiting

    def _answer(self, batch: list[_Ticket]) -> None:
        def finished(index: int, answer: Generation) -> None:
            batch[index].settle(answer)

        with _turns.setdefault(self.subject, threading.Lock()):
            try:
                requests = [ticket.request for ticket in batch]
                generate(self.subject, requests, max_batch_tokens=self.max_batch_tokens, finished=finished)
            except Exception as error:
                for ticket in batch:
                    ticket.settle(error)

    def _output(self, prompt: tuple[int, ...], answers: Sequence[Generation], config: GenerateConfig) -> ModelOutput:
        written = sum(len(answer.ids) for answer in answers)
        return ModelOutput(
            model=self.canonical_name(),
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=answer.text, model=self.canonical_name(), source="generate"),
                    stop_reason=_STOP[answer.stop_reason],
                    logprobs=self._logprobs(answer) if config.logprobs else None,
                )
                for answer in answers
            ],
            usage=ModelUsage(input_tokens=len(prompt), output_tokens=written, total_tokens=len(prompt) + written),
            metadata={name: getattr(self.subject.identity, name) for name in DIGESTS},
        )

    def _overlong(self, prompt: tuple[int, ...]) -> ModelOutput:
        problem = f"the prompt takes {len(prompt)} tokens, the context holds {self.subject.context}"
        output = ModelOutput.from_content(self.canonical_name(), "", stop_reason="model_length", error=problem)
        output.usage = ModelUsage(input_tokens=len(prompt), output_tokens=0, total_tokens=len(prompt))
        return output

    def _logprobs(self, answer: Generation) -> Logprobs:
        def text(token: int) -> str:
            return str(self.subject.tokenizer.decode([token], clean_up_tokenization_spaces=False))

        return Logprobs(
            content=[
                Logprob(
                    token=text(token.id),
                    logprob=token.logprob,
                    top_logprobs=[TopLogprob(token=text(i), logprob=p) for i, p in token.top] or None,
                )
                for token in answer.tokens
            ]
        )


def _find_live(name: str, model_args: dict[str, Any]) -> _Slot:
    if model_args:
        raise UsageError(f"aftertune/{name}: a subject in memory takes no -M flags but max_batch_tokens")
    if name.count(":") < 2:
        raise UsageError(f"aftertune/{name}: {_GONE}")
    return _live.get(name) or _Slot(None)


def _load(name: str, model_args: dict[str, Any]) -> Subject:
    placement = Placement(
        device=model_args.pop("device", None),
        dtype=model_args.pop("dtype", None),
    )
    known = {key: model_args.pop(key) for key in ("base", "tokenizer", "chat_template") if key in model_args}
    trust = bool(model_args.pop("trust_remote_code", False))
    if model_args:
        raise UsageError(
            f"aftertune/{name}: -M {next(iter(model_args))} is unknown; choose from base, tokenizer, chat_template, "
            "device, dtype, max_batch_tokens, trust_remote_code"
        )
    return load(name, placement=placement, trust_remote_code=trust, **known)
