"""Rendering conversations to tokens: in one place, the same for training, scoring and generating."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftertune.data import Conversation, Message
from aftertune.errors import SubjectError, UsageError
from aftertune.subject._trees import Tree
from aftertune.subject._vocabulary import refuse_beyond

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100

PLAIN_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}"
    "{% elif m.role == 'user' %}{{ 'User: ' + m.content + '\\n' }}"
    "{% else %}{{ 'Assistant: ' + m.content + eos_token + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
        ids: all token ids.
        spans: half-open ranges of ``ids`` that hold assistant answers, end-of-turn token included.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def labels(self) -> list[int]:
        """Token ids inside the spans, -100 elsewhere: the loss mask of response-only training."""
        labels = [IGNORE] * len(self.ids)
        for start, end in self.spans:
            labels[start:end] = self.ids[start:end]
        return labels


class Chat:
    """A tokenizer and its chat template.

    Args:
        tokenizer: any Hugging Face tokenizer.
        template: a Jinja chat template to use instead of the tokenizer's own.
        name: what to call the subject in complaints.

    Raises:
        SubjectError: there is no chat template, or no end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None, name: str = "subject") -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.rows: int | None = None  # of the embedding, once it is known
        template = template or tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise SubjectError(
                f"{name}: the tokenizer has no chat template; give one with --chat-template FILE, "
                "or --chat-template plain for User:/Assistant: lines"
            )
        self.template: str = template
        if tokenizer.eos_token_id is None:
            raise SubjectError(f"{name}: the tokenizer has no end-of-sequence token; mend its tokenizer_config.json")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the template."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def text(self, messages: Sequence[Message], *, generate: bool) -> str:
        """The rendered text; ``generate`` ends it where the assistant is to speak.

        Raises:
            SubjectError: the template refuses the messages (a system prompt it does not know, say).
        """
        turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generate,
                enable_thinking=False,
            )
        except Exception as error:  # Jinja templates raise whatever they like
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SubjectError(f"{self.name}: its chat template refuses the conversation ({reason})") from error
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text. The template prints what special tokens there are, so none are added."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if self.rows is not None:
            refuse_beyond(self.tokenizer, ids, self.rows, self.name)
        return ids

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids up to where the assistant is to speak."""
        ids = tuple(self.encode(self.text(messages, generate=True)))
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id and ids[:2] == (bos, bos):
            raise SubjectError(f"{self.name}: its chat template prints the beginning-of-sequence token twice; mend it")
        return ids

    def response(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """Token ids of ``answer`` after the prompt of ``messages``, up to and with the end-of-turn token.

        The prompt is tokenised as it is when the model speaks, so a prompt's ids never depend on the answer.
        """
        prompt = self.text(messages, generate=True)
        whole = self.text((*messages, Message("assistant", answer)), generate=False)
        if not whole.startswith(prompt):
            raise SubjectError(
                f"{self.name}: its chat template renders the prompt differently once answered, so the response "
                "cannot be told apart; give another with --chat-template"
            )
        tail = whole[len(prompt) :].rstrip()
        prompt_ids, joint = self.encode(prompt), self.encode(prompt + tail)
        ids = joint[len(prompt_ids) :] if joint[: len(prompt_ids)] == prompt_ids else self.encode(tail)
        if not ids or ids[-1] not in self._end_of_turn:
            ids = [*ids, int(self.tokenizer.eos_token_id)]
        return tuple(ids)

    @functools.cached_property
    def _end_of_turn(self) -> frozenset[int]:
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return frozenset(int(i) for i in special)

    def tree(self, messages: Sequence[Message], answers: Iterable[str]) -> Tree:
        """A prompt with whole answers, each up to and with its end of turn."""
        return Tree(self.prompt(messages), tuple(self.response(messages, answer) for answer in answers))

    def continuation(self, messages: Sequence[Message], opening: str) -> tuple[int, ...]:
        """Token ids of the first words of an answer, with no end of turn."""
        prompt = self.text(messages, generate=True)
        whole = self.text((*messages, Message("assistant", opening)), generate=False)
        lead, found, _ = whole.removeprefix(prompt).partition(opening)
        if whole.startswith(prompt) and found and lead.isspace():
            opening = lead + opening  # many templates put a space before the answer
        prompt_ids, joint = self.encode(prompt), self.encode(prompt + opening)
        matches = joint[: len(prompt_ids)] == prompt_ids
        return tuple(joint[len(prompt_ids) :] if matches else self.encode(opening))

    def render(self, conversation: Conversation) -> Rendered:
        """A whole conversation with its response spans.

        Every assistant turn is a span, as long as the template renders earlier turns unchanged; a template that
        rewrites history (dropping old reasoning, say) leaves only the last answer.

        Raises:
            UsageError: not a single token would be supervised.
            SubjectError: see `prompt` and `response`.
        """
        messages = conversation.messages
        last = len(messages) - 1
        prompt = self.prompt(messages[:last])
        ids = (*prompt, *self.response(messages[:last], messages[last].content))
        spans = [(len(prompt), len(ids))]
        for index in range(last):
            if messages[index].role != "assistant":
                continue
            head = self.prompt(messages[:index])
            answer = self.response(messages[:index], messages[index].content)
            if ids[: len(head) + len(answer)] == (*head, *answer):
                spans.append((len(head), len(head) + len(answer)))
        if not any(end > start for start, end in spans):
            raise UsageError(f"{conversation.source}:{conversation.line}: no token of the answer would be supervised")
        return Rendered(ids, tuple(sorted(spans)))


def read_template(choice: str | None) -> str | None:
    """The template of ``--chat-template``: None, "plain", or a file's text.

    Raises:
        UsageError: the file cannot be read.
    """
    from pathlib import Path

    if choice is None:
        return None
    if choice == "plain":
        return PLAIN_TEMPLATE
    try:
        return Path(choice).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template {choice}: cannot be read ({error}); give a Jinja file or 'plain'") from None
