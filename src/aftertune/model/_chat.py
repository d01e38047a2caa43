"""Chat turns as tokens: prompts, answers, and the vocabulary they are written in."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftertune.data import Conversation, Message
from aftertune.errors import SubjectError, UsageError, spelled_out
from aftertune.model._control import plain_ids, refuse_unfit_tokenizer
from aftertune.model._prompt_batches import PromptAnswers
from aftertune.model._rendering import PROBE, Rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


IGNORE = -100
_LARGEST_TEMPLATE = 2**20

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

    Template and tokenizer are tried out when the chat is made: one that drops or alters what is said, or does not
    finish, is refused before anything runs. A text that spells a control token (``<|im_end|>``) is encoded as text.

    Args:
        tokenizer: any Hugging Face tokenizer.
        template: a Jinja chat template to use instead of the tokenizer's own.
        name: what to call the subject in complaints.

    Raises:
        SubjectError: there is no chat template or no end-of-sequence token, or one of both is not fit for use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None, name: str = "subject") -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.rows: int | None = None  # of the embedding, once it is known
        own: Any = tokenizer.chat_template if template is None else template
        if isinstance(own, dict):
            own = own.get("default")
        if own is None:
            raise SubjectError(
                f"{name}: the tokenizer has no chat template; give one with --chat-template FILE, "
                "or --chat-template plain for User:/Assistant: lines"
            )
        if not own.strip():
            raise SubjectError(f"{name}: its chat template is empty; give another with --chat-template")
        self.template: str = own
        if tokenizer.eos_token_id is None:
            raise SubjectError(f"{name}: the tokenizer has no end-of-sequence token; mend its tokenizer_config.json")
        refuse_unfit_tokenizer(tokenizer, name)
        self._rendering = Rendering(tokenizer, own, name)
        self._last_prompt: tuple[str, list[int]] = ("", [])
        self.prompt([Message("user", PROBE)])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the template; and of its date, header or end, where these are not read as printed."""
        text, facts = self.template, self._rendering.facts
        if facts:
            text += json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of this template when reading its numbers, one line each."""
        facts = self._rendering.facts
        texts = {
            "date": f"its chat template prints today's date; here that is {facts.get('date')} on every day",
            "header": f"its chat template prints {spelled_out(facts.get('header', ''))!r} before each answer; "
            "likelihoods are read after it",
        }
        return tuple(f"{self.name}: {text}" for name, text in texts.items() if name in facts)

    def text(self, messages: Sequence[Message], *, generate: bool) -> str:
        """The rendered text; ``generate`` ends it where the assistant is to speak.

        Raises:
            SubjectError: the template refuses the messages (a system prompt it does not know, say).
        """
        return self._rendering.control.unmark(self._rendering.text(messages, generate=generate))

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text. The template prints what special tokens there are, so none are added."""
        return self._known(self.tokenizer.encode(text, add_special_tokens=False))

    def plain(self, text: str) -> list[int]:
        """Token ids of a text outside of any chat, after what the tokenizer itself puts before a text.

        Control tokens that the text spells are encoded as text; nothing is put after it.
        """
        bare = plain_ids(self.tokenizer, text, split_special_tokens=True)
        whole: list[int] = self.tokenizer.encode(text, split_special_tokens=True)
        starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
        return self._known(whole[: next(starts, 0)] + bare)

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids up to where the assistant is to speak: what an answer is sampled from.

        Raises:
            SubjectError: see `text`; or the template leaves out a message, or prints the beginning-of-sequence token
                twice.
        """
        return self._checked(self._ids(self._rendering.prompt(messages)))

    def answer_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids up to where the words of an answer stand: what its likelihood is read after.

        This is `prompt`, and then whatever header the template prints itself before an answer
        (``<|channel|>final<|message|>``, an empty thought).

        Raises:
            SubjectError: see `prompt`; or the answer cannot be told apart from what stands around it.
        """
        slot = self._rendering.slot(messages)
        return self._checked(self._ids(slot.prompt + slot.header))

    def response(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """Token ids of ``answer`` after the `answer_prompt` of ``messages``, up to and with the end-of-turn token.

        The prompt is tokenised as it is when the model speaks, so a prompt's ids never depend on the answer.

        Raises:
            SubjectError: see `answer_prompt`; or the template alters the answer.
        """
        slot = self._rendering.slot(messages)
        text = slot.space + self._rendering.answer(messages, answer)
        text = text + slot.end if slot.end else (text + slot.rest).rstrip()
        ids = self._ids_after(slot.prompt + slot.header, text)
        if not ids or ids[-1] not in self._end_of_turn:
            ids = [*ids, int(self.tokenizer.eos_token_id)]
        return tuple(ids)

    @functools.cached_property
    def _end_of_turn(self) -> frozenset[int]:
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return frozenset(int(i) for i in special)

    def case(self, messages: Sequence[Message], answers: Iterable[str]) -> PromptAnswers:
        """A prompt with whole answers, each up to and with its end of turn."""
        return PromptAnswers(self.answer_prompt(messages), tuple(self.response(messages, answer) for answer in answers))

    def continuation(self, messages: Sequence[Message], opening: str) -> tuple[int, ...]:
        """Token ids of the first words of an answer after the `answer_prompt`, with no end of turn."""
        return self.continuations(messages, [opening])[0]

    def continuations(self, messages: Sequence[Message], openings: Sequence[str]) -> list[tuple[int, ...]]:
        """`continuation` of several openings, tokenised in one call, which is many times faster."""
        slot = self._rendering.slot(messages)
        # Many templates put a space before the answer.
        texts = [slot.space + self._rendering.marked(Message("assistant", opening)) for opening in openings]
        prompt = slot.prompt + slot.header
        before = self._ids_of_prompt(prompt)
        joint = self._rendering.control.ids_of_all([prompt + text for text in texts])
        return [
            tuple(self._known(ids)[len(before) :] if ids[: len(before)] == before else self._ids(text))
            for ids, text in zip(joint, texts, strict=True)
        ]

    def render(self, conversation: Conversation) -> Rendered:
        """A whole conversation with its response spans; every assistant turn is one.

        Raises:
            DataError: the template refuses it, or drops or alters what is said, so that no loss could fall on it.
        """
        try:
            return self._spans(conversation)
        except SubjectError as error:
            raise conversation.error(str(error)) from error

    def _spans(self, conversation: Conversation) -> Rendered:
        messages = conversation.messages
        last = len(messages) - 1
        slot, earlier = self._rendering.slot(messages[:last]), None
        if any(message.role == "assistant" for message in messages[:last]):
            earlier = self._rendering.earlier_answers(messages[:last])
            if earlier is None:
                raise SubjectError(
                    f"{self.name}: its chat template drops or alters an earlier assistant turn, so no loss could fall "
                    "on it; make a row of each turn, or give another template with --chat-template"
                )
        ids, spans = self._cut(slot.prompt + slot.header, earlier or [])
        answer = self.response(messages[:last], messages[last].content)
        spans.append((len(ids), len(ids) + len(answer)))
        return Rendered((*self._checked(ids), *answer), tuple(spans))

    def _ids(self, marked: str) -> list[int]:
        return self._known(self._rendering.control.ids(marked))

    def _known(self, ids: list[int]) -> list[int]:
        """Token ids that the model's embedding has."""
        if self.rows is not None:
            refuse_beyond(self.tokenizer, ids, self.rows, self.name)
        return ids

    def _ids_after(self, prompt: str, text: str) -> list[int]:
        """Ids of marked text that goes on from a prompt, whose own ids stay as they are."""
        before = self._ids_of_prompt(prompt)
        joint = self._ids(prompt + text)
        return joint[len(before) :] if joint[: len(before)] == before else self._ids(text)

    def _ids_of_prompt(self, prompt: str) -> list[int]:
        known, before = self._last_prompt  # many answers to one prompt come one after another
        if known != prompt:
            before = self._ids(prompt)
            self._last_prompt = (prompt, before)
        return before

    def _cut(self, text: str, ranges: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of marked text, and ranges of characters as ranges of ids; pieces apart where a token spans an edge."""
        ids = self._ids(text)
        edges = [edge for bounds in ranges for edge in bounds]
        heads = [self._ids(text[:edge]) for edge in edges]
        if all(ids[: len(head)] == head for head in heads):
            places = [len(head) for head in heads]
        else:
            ids, places = [], []
            for start, end in zip([0, *edges], [*edges, len(text)], strict=True):
                ids += self._known(self._rendering.control.ids(text[start:end], goes_on=start > 0))
                places.append(len(ids))
        return ids, list(zip(places[: len(edges)][::2], places[: len(edges)][1::2], strict=True))

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id and tuple(ids[:2]) == (bos, bos):
            raise SubjectError(f"{self.name}: its chat template prints the beginning-of-sequence token twice; mend it")
        return tuple(ids)


def read_template(choice: str | None) -> str | None:
    """The template of ``--chat-template``: None, "plain", or a file's text.

    Raises:
        UsageError: the file cannot be read, is empty, or is larger than a template can be.
    """
    from pathlib import Path

    if choice is None:
        return None
    if choice == "plain":
        return PLAIN_TEMPLATE
    where, mend = f"--chat-template {spelled_out(choice)}", "give a Jinja file or 'plain'"
    try:
        path = Path(choice)
        if path.exists() and not path.is_file():
            raise UsageError(f"{where}: is no regular file; {mend}")
        if path.stat().st_size > _LARGEST_TEMPLATE:
            raise UsageError(f"{where}: is larger than {_LARGEST_TEMPLATE} bytes; {mend}")
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: cannot be read ({spelled_out(str(error))}); {mend}") from None
    if not text.strip():
        raise UsageError(f"{where}: the file is empty; {mend}")
    return text


def embedding_rows(model: Any) -> int:
    """How many tokens a model's input embedding knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def refuse_foreign_tokens(chat: Chat, rows: int, name: str) -> None:
    """Refuse a tokenizer whose ordinary vocabulary, or whose chat template, goes beyond an embedding of ``rows`` rows.

    Added tokens beyond it that no template prints are let be (some text models have such for pictures), but
    ``chat`` refuses them in texts from here on.

    Raises:
        SubjectError: naming the token and both sizes.
    """
    tokenizer = chat.tokenizer
    chat.rows = rows
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values(), default=-1) < rows:  # not its length: ids may have gaps
        return
    added = set(tokenizer.added_tokens_decoder)
    highest = max((index for index in vocabulary.values() if index not in added), default=-1)
    if highest >= rows:
        raise _beyond(tokenizer, highest, rows, name)
    ask = [Message("user", "Hello"), Message("assistant", "Hello."), Message("user", "Hello again")]
    for generate in (True, False):
        refuse_beyond(tokenizer, chat.encode(chat.text(ask, generate=generate)), rows, name)
    for index in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if index is not None:
            refuse_beyond(tokenizer, [int(index)], rows, name)


def refuse_beyond(tokenizer: PreTrainedTokenizerBase, ids: list[int], rows: int, name: str) -> None:
    """Refuse token ids beyond an embedding of ``rows`` rows.

    Raises:
        SubjectError: naming the first token and both sizes.
    """
    if ids and max(ids) >= rows:
        raise _beyond(tokenizer, next(index for index in ids if index >= rows), rows, name)


def _beyond(tokenizer: PreTrainedTokenizerBase, index: int, rows: int, name: str) -> SubjectError:
    token = spelled_out(str(tokenizer.convert_ids_to_tokens(index)))
    return SubjectError(
        f"{name}: token {token} has the id {index}, but the embedding has {rows} rows (the tokenizer knows "
        f"{len(tokenizer)} tokens); resize the embedding, or give the model's own tokenizer with --tokenizer"
    )
