"""Conversations as a template prints them: where each answer stands, and whether all is there that was said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.data import Message
from aftertune.errors import SubjectError, spelled_out
from aftertune.model._control import ControlText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Long, with marks, capitals and line breaks inside: what templates cut, escape or fold.
PROBE = "Is 2 < 3 & \"this\" {one}?\nSay  Why: 'Ä', 你好.\n" + "And so On. " * 200 + "Well?"
_MEND = "give another with --chat-template"
_EMPTY_THOUGHT = re.compile(r"\s*([<\[])(\w+)([>\]])\s*\1/\2\3\s*")


@dataclass(frozen=True)
class AnswerSlot:
    """Where an answer stands in a rendered conversation; all texts are marked (see `ControlText`).

    Attributes:
        prompt: all that the model is given before it speaks.
        header: what the template prints itself between prompt and answer, a channel or an empty thought; mostly "".
        space: white space after it.
        shown: what the template prints before a given answer: these three, unless it leaves an empty thought out there.
        end: what ends the answer's turn; "" where the template prints no token for it.
        rest: all that follows the answer.
    """

    prompt: str
    header: str
    space: str
    shown: str
    end: str
    rest: str


class Rendering:
    """A chat template at work.

    A conversation is rendered at once, so that a template that drops or alters what is said, never ends, or puts
    answers where they cannot be found, is refused before anything runs.

    Args:
        tokenizer: whose special tokens the template may print.
        template: a Jinja chat template.
        name: what to call the subject in complaints.

    Raises:
        SubjectError: the template is not fit for use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, name: str) -> None:
        from aftertune.model._template import PINNED_DATE, ChatTemplate

        self.name = name
        self._variables = tokenizer.special_tokens_map
        try:
            self._template = ChatTemplate(template)
        except Exception as error:  # not only syntax errors: constants are worked out as well
            raise SubjectError(f"{name}: its chat template cannot be read ({_reason(error)}); {_MEND}") from error
        added = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
        spelled = sorted((token for token in added if token.strip()), key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, spelled)) or r"(?!)")
        self.control = ControlText(tokenizer)
        self._last: tuple[tuple[Message, ...], AnswerSlot] | None = None
        self._end = ""
        slot, structure = self._try_out()
        self.control = ControlText(tokenizer, structure)
        self._last = None
        self._ends_turns = bool(slot.end)
        self.facts: dict[str, str] = {}
        if self._template.dated:
            self.facts["date"] = str(PINNED_DATE)
        if slot.header:
            self.facts["header"] = slot.header
        if slot.end and slot.end != slot.rest.rstrip():
            self.facts["end"] = slot.end

    def text(self, messages: Sequence[Message], *, generate: bool) -> str:
        """Marked text of messages; ``generate`` ends it where the assistant is to speak.

        Raises:
            SubjectError: the template refuses the messages, or takes too long over them.
        """
        return self._filled([(m.role, self.marked(m)) for m in messages], generate=generate)

    def marked(self, message: Message) -> str:
        """A message's text, marked."""
        try:
            return self.control.mark(message.content, message.role)
        except SubjectError as error:
            raise SubjectError(f"{self.name}: {error}") from None

    def prompt(self, messages: Sequence[Message]) -> str:
        """Marked text up to where the assistant is to speak.

        Raises:
            SubjectError: see `text`; or a message is not in it as it was said.
        """
        text = self.text(messages, generate=True)
        at = 0
        for message in messages:
            said = self.marked(message).strip()
            if message.role == "assistant":  # templates may drop the thought before an earlier answer
                said = said.rpartition("\n")[2].strip()
            # A system prompt may stand anywhere: some templates put it into the last question.
            found = text.find(said) if message.role == "system" else text.find(said, at)
            if found < 0:
                where = f"the {message.role} message {_quoted(message)}"
                raise SubjectError(f"{self.name}: its chat template drops or alters {where}; {_MEND}")
            if message.role != "system":
                at = found + len(said)
        return text

    def slot(self, messages: Sequence[Message]) -> AnswerSlot:
        """Where an answer to messages stands; found by rendering one that nobody gave.

        Raises:
            SubjectError: see `prompt`; or the answer cannot be told apart from what stands around it.
        """
        key, last = tuple(messages), self._last
        if last is not None and last[0] == key:
            return last[1]
        prompt = self.prompt(messages)
        unheard = _unheard(messages)
        turns = [*((m.role, self.marked(m)) for m in messages), ("assistant", unheard)]
        head, *rest = self._filled(turns, generate=False).split(unheard)
        if len(rest) != 1:
            how = "prints the assistant's answer twice" if rest else "drops or alters the assistant's answer"
            raise SubjectError(f"{self.name}: its chat template {how}; {_MEND}")
        lead = head.removeprefix(prompt)
        if not head.startswith(prompt):
            lead = ""
            if any(self.marked(m).strip() not in head for m in messages[-1:]):
                raise SubjectError(
                    f"{self.name}: its chat template drops or alters the {messages[-1].role} message once it is "
                    f"answered; {_MEND}"
                )
            if prompt.startswith(head) and _EMPTY_THOUGHT.fullmatch(prompt[len(head) :]):
                pass  # where the model is to speak, its thought is over
            elif prompt.startswith(head):
                raise SubjectError(
                    f"{self.name}: its chat template begins an answer with a header or thought "
                    f"({spelled_out(prompt[len(head) :])[:60]!r}) that it does not print before a given answer, so "
                    f"where an answer begins is unknown; {_MEND}"
                )
            else:
                raise SubjectError(
                    f"{self.name}: its chat template renders the prompt differently once answered, so the response "
                    f"cannot be told apart; {_MEND}"
                )
        header = lead.rstrip(" ") if lead.strip() else ""
        slot = AnswerSlot(prompt, header, lead[len(header) :], head, self._closing(rest[0]), rest[0])
        self._last = (key, slot)
        return slot

    def answer(self, messages: Sequence[Message], answer: str) -> str:
        """Marked answer to messages as the template prints it: white space at its ends may go, nothing else.

        Raises:
            SubjectError: see `slot`; or the template alters it.
        """
        slot, message = self.slot(messages), Message("assistant", answer)
        whole = self.text([*messages, message], generate=False)
        for printed in _trims(self.marked(message)):
            if whole == slot.shown + printed + slot.rest:
                return printed
        raise SubjectError(
            f"{self.name}: its chat template drops or alters the assistant's answer {_quoted(message)}; {_MEND}, "
            "or change the answer"
        )

    def earlier_answers(self, messages: Sequence[Message]) -> list[tuple[int, int]] | None:
        """Half-open ranges of characters of the prompt of messages that are answers, each with its end of turn.

        Returns:
            None where one of them is not in the prompt as it was said.
        """
        slot, unheard = self.slot(messages), _unheard(messages)
        said = [self.marked(m) for m in messages if m.role == "assistant"]
        turns = [(m.role, unheard if m.role == "assistant" else self.marked(m)) for m in messages]
        first, *following = self._filled(turns, generate=True).split(unheard)
        if len(following) != len(said) or not slot.prompt.startswith(first):
            return None
        at, spans = len(first), []
        for answer, after in zip(said, following, strict=True):
            fits = [printed for printed in _trims(answer) if slot.prompt.startswith(printed + after, at)]
            if not fits:
                return None
            space = slot.space if slot.prompt.endswith(slot.space, 0, at) else ""
            end = at + len(fits[0])
            spans.append((at - len(space), end + len(self._closing(after, earlier=True))))
            at = end + len(after)
        return spans if at == len(slot.prompt) else None

    def _filled(self, turns: Sequence[tuple[str, str]], *, generate: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return self._template.render(messages, generate=generate, tokens=self._variables)
        except Exception as error:  # Jinja templates raise whatever they like
            raise SubjectError(f"{self.name}: its chat template refuses the conversation ({_reason(error)})") from error

    def _closing(self, text: str, *, earlier: bool = False) -> str:
        """What of the text after an answer ends its turn: through the end-of-turn token; "" if there is none."""
        if self._end and text.startswith(self._end):
            return self._end
        found = self._tokens.search(text)
        # After an earlier answer, words before the first token are the next message's; so is the token itself where
        # answers end with none.
        if found is None or (earlier and (not self._ends_turns or text[: found.start()].strip())):
            return ""
        return text[: found.end()]

    def _try_out(self) -> tuple[AnswerSlot, str]:
        """Render a conversation; where its first answer stands, and what the template prints around messages."""
        question = [Message("user", PROBE)]
        again = Message("user", "And then?")
        if self.text(question, generate=True) != self.text(question, generate=True):
            raise SubjectError(f"{self.name}: its chat template prints another text each time; {_MEND}")
        slot = self.slot(question)
        self.answer(question, PROBE)
        structure = slot.prompt.replace(PROBE, "") + slot.header + slot.rest
        twice = [*question, Message("assistant", PROBE), again]
        try:
            text = self.text(twice, generate=True)
        except SubjectError:  # a template for single questions
            return slot, structure
        if text.count(PROBE) != 2:
            raise SubjectError(f"{self.name}: its chat template drops or alters earlier assistant turns; {_MEND}")
        unheard = _unheard(twice)
        parts = self._filled([("user", PROBE), ("assistant", unheard), ("user", again.content)], generate=True)
        between = parts.partition(unheard)[2].partition(again.content)[0]
        # What ends an answer ends it wherever it stands; what is printed at the very end alone ends the text.
        common = _common_prefix(between, slot.rest)
        self._end = common[: max((found.end() for found in self._tokens.finditer(common)), default=0)]
        self._last = None
        return self.slot(question), structure + between


def _reason(error: Exception) -> str:
    return spelled_out((str(error).strip().splitlines() or [type(error).__name__])[0][:200])


def _quoted(message: Message) -> str:
    return repr(message.content[:40])


def _unheard(messages: Iterable[Message]) -> str:
    """A text that none of the messages holds."""
    text, said = "Unheard", [message.content for message in messages]
    while any(text in content for content in said):
        text += "y"
    return text


def _trims(text: str) -> tuple[str, ...]:
    return text, text.rstrip(), text.lstrip(), text.strip()


def _common_prefix(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
