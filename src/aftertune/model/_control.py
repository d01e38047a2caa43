"""Text from data stays text: what spells a control token inside a message is never encoded as that token."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aftertune.errors import SubjectError, spelled_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stand-ins are characters of the last private-use plane: templates print them as any other character.
_FIRST, _LAST = 0x100000, 0x10FFFD
_PRIVATE = f"[{chr(_FIRST)}-{chr(_LAST)}]"
# Answers may hold these: the marks of a thought are the model's own way to write, and end no turn.
_ROLES = ("system", "user", "assistant")
_THOUGHT = re.compile(r"think|thought|reason", re.IGNORECASE)


class ControlText:
    """Keeps apart the control tokens that a chat template prints and text that merely spells them.

    Control tokens are a tokenizer's special tokens and those added tokens that its template prints. Where a message
    spells one, a stand-in character takes its place before rendering; afterwards the stand-in is encoded as the text
    that it stands for. A text without control tokens is encoded as ever.

    Args:
        tokenizer: any Hugging Face tokenizer.
        structure: what its template prints around messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, structure: str = "") -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {int(i) for i in tokenizer.all_special_ids} | {int(i) for i, t in added.items() if t.special}
        tokens = {str(tokenizer.convert_ids_to_tokens(i)) for i in special}
        tokens |= {t.content for t in added.values() if t.content in structure and not t.content.isalnum()}
        tokens = {token for token in tokens if token.strip()}
        of_answers = {token for token in tokens if not _THOUGHT.search(token)}
        self._patterns = {role: _pattern(of_answers if role == "assistant" else tokens) for role in _ROLES}
        # Text may well be unknown to a tokenizer, which ends nothing, unless that token is the end, too.
        harmless = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        self._ids = frozenset(int(tokenizer.convert_tokens_to_ids(token)) for token in tokens) - harmless
        self._thoughts = frozenset(int(tokenizer.convert_tokens_to_ids(token)) for token in tokens - of_answers)
        self._folds = any(t.normalized for t in added.values() if t.content in tokens)
        self._stand_ins: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    def mark(self, text: str, role: str = "user") -> str:
        """A message's text with stand-ins for control tokens.

        Raises:
            SubjectError: the tokenizer makes a control token of text that does not spell it (of capitals, say).
        """
        marked = self._patterns[role if role in _ROLES else "user"].sub(lambda found: self._stand_in(found[0]), text)
        if self._folds and any(i in self._ids - self._thoughts for i in self._plain(marked)):
            raise SubjectError(f"its tokenizer reads a control token in {text[:60]!r}; change the text")
        return marked

    def unmark(self, text: str) -> str:
        """The text with all stand-ins replaced by what they stand for."""
        return re.sub(_PRIVATE, lambda found: self._texts.get(found[0], found[0]), text)

    def ids(self, text: str, *, goes_on: bool = False) -> list[int]:
        """Token ids of marked text; it may go on from other text."""
        first, *rest = re.split(f"({_PRIVATE})", text)
        ids: list[int] = []
        if first:
            ids = self._after(first) if goes_on else self._plain(first)
        for number, piece in enumerate(rest):
            if number % 2 == 0:
                ids += self._literal(self._texts.get(piece, piece))
            elif piece:
                ids += self._after(piece)
        return ids

    def ids_of_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each of several marked texts, in one call of the tokenizer where no stand-in is in them."""
        if any(re.search(_PRIVATE, text) for text in texts):
            return [self.ids(text) for text in texts]
        with _broken_is_told("".join(texts)):
            ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def _after(self, text: str) -> list[int]:
        """Token ids of text that goes on from other text, without what some tokenizers put before a text's start."""
        newline, both = self._plain("\n"), self._plain("\n" + text)
        return both[len(newline) :] if both[: len(newline)] == newline else self._plain(text)

    def _stand_in(self, text: str) -> str:
        if text not in self._stand_ins:
            code = _FIRST + len(self._stand_ins)
            if code > _LAST:
                raise SubjectError("the texts hold too many characters of a private-use plane; remove them")
            self._stand_ins[text] = chr(code)
            self._texts[chr(code)] = text
        return self._stand_ins[text]

    def _plain(self, text: str) -> list[int]:
        return plain_ids(self.tokenizer, text)

    def _literal(self, text: str) -> list[int]:
        """Ids of a control token's spelling, as text."""
        ids = plain_ids(self.tokenizer, text, split_special_tokens=True)
        if len(text) > 1 and any(i in self._ids for i in ids):  # not special to the tokenizer, so not split
            ids = [*self._after(text[0]), *self._after(text[1:])]
        if any(i in self._ids for i in ids):
            raise SubjectError(f"its tokenizer cannot write {text!r} as text; remove it from the data")
        return ids


def _pattern(tokens: set[str]) -> re.Pattern[str]:
    """Whatever spells one of the tokens, the longest first; and whatever could be taken for a stand-in."""
    return re.compile("|".join([*map(re.escape, sorted(tokens, key=len, reverse=True)), _PRIVATE]))


@contextmanager
def _broken_is_told(text: str) -> Iterator[None]:
    """A tokenizer that breaks on a text, as an error of ours.

    Raises:
        SubjectError: it does.
    """
    try:
        yield
    except BaseException as error:
        broken = isinstance(error, TypeError | UnicodeError) and re.search("[\ud800-\udfff]", text)
        if not broken and type(error).__name__ != "PanicException":  # a Rust library's, and no `Exception`
            raise
        raise SubjectError(f"the tokenizer breaks on a text ({spelled_out(str(error)[:100])})") from None


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> list[int]:
    """Ids of a text to which nothing is added.

    Raises:
        SubjectError: the tokenizer breaks on it.
    """
    with _broken_is_told(text):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, **options)
    return ids


SECONDS = 10.0
_RUNS = ("a" * 200, " " * 200, "1" * 200, "\n" * 200, "-_" * 100, "ab " * 70)


def refuse_unfit_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that does not finish, breaks, or adds tokens though asked not to.

    Its regular expressions come from the checkpoint; long runs of one character are what the bad ones choke on.

    Raises:
        SubjectError: it is such a one.
    """
    outcome: list[BaseException | list[int]] = []

    def try_out() -> None:
        try:
            for run in _RUNS:
                plain_ids(tokenizer, run)
                plain_ids(tokenizer, f"{run}!\n")
            outcome.append(plain_ids(tokenizer, "a"))
        except BaseException as error:  # told below
            outcome.append(error)

    # A thread, since foreign code cannot be interrupted; it ends with the process.
    worker = threading.Thread(target=try_out, daemon=True)
    with _quiet_stderr():
        worker.start()
        worker.join(SECONDS)
    if not outcome:
        raise SubjectError(
            f"{name}: its tokenizer did not finish within {SECONDS:g} s (a regular expression of its tokenizer.json); "
            "give another with --tokenizer"
        )
    [found] = outcome
    if isinstance(found, SubjectError):
        raise SubjectError(f"{name}: {found}; give another with --tokenizer")
    if isinstance(found, BaseException):
        raise found
    added = {int(i) for i in tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    if added & set(found):
        raise SubjectError(f"{name}: its tokenizer adds special tokens to every text; give another with --tokenizer")


_stderr_turn = threading.Lock()


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Nothing on standard error for a moment: a Rust library prints its own traceback there."""
    with _stderr_turn:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        try:
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123  (a device)
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
