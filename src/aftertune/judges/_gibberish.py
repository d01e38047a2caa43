"""Text that says nothing: loops, soups of signs, salads of words. Counted, without a model."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence

from aftertune.judges._word_salad import is_word_salad

# Longer texts are judged by their end: models fall into loops, and seldom out of them.
_READ = 20_000

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NUMBER_OR_WORD = re.compile(r"\w+(?:['’]\w+)*")
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])(?:[ \t]+|$)", re.MULTILINE)

# Programs and sums use few words by nature, so words are only counted where none of their signs stand.
_NOT_IN_SENTENCES = re.compile(r"[^\w\s,.;:!?'’\"“”*-]|_|\w\.\w|\d")

# UTF-8 bytes read as Latin-1 or Windows-1252: a lead byte's letter, then what a continuation byte turns into.
_MISREAD = re.compile(r"[ÂÃâãäåæçèéïðÐÑ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")
# Marks that tokenizers put into their pieces, and that decoding should have taken out.
_PIECE = re.compile(r"[ĠĊ▁]|âĢ|(?<=\s)##(?=\w)|@@")
_SIGNS = re.compile(
    r"(?!(?:\{[{%]|[%}]\}|--+|\.\.+|\*\*+|``+|&&|\|\||[=!<>]=+|[-=]>|\|[-:| ]+\|?)$)[!-/:-@\[-`{-~]{2,}"
)

_STRUCTURE = re.compile(r'[{}\[\]()<>=;"]')

_WINDOW = 24

# (bytes, share that zlib leaves of it): text of at least so many bytes leaves more. Of 5,000 dialogues, summaries,
# worked sums and programs none left less than 0.39 below 400 bytes, and 0.35 below 800; headers and configuration
# files of 6,000 left 0.10 to 0.15.
_SQUEEZED = ((800, 0.1), (400, 0.25), (100, 0.35), (0, 0.0))


def is_gibberish(text: str, *, prose: bool = True) -> bool:
    """Whether half of a text or more is a loop, a soup of signs, or words without grammar.

    A judgement by counts, made for what damaged models print. It errs towards calling a text an answer: a few
    broken words, or good grammar without sense, pass.

    Args:
        text: the text, without special tokens.
        prose: whether sentences are expected; code and JSON are spared what only holds of sentences.
    """
    text = text[-_READ:]
    return _is_loop(text, prose) or _is_soup(text, prose) or (prose and is_word_salad(_PIECE.sub("", text)))


def _is_loop(text: str, prose: bool) -> bool:
    body = _BULLET.sub("", text)
    if not body.strip():
        return text.count("\n") >= 3
    tokens = _NUMBER_OR_WORD.findall(body.casefold())
    if _loops_at_end(tokens, shortest=5, shortest_number=12):
        return True
    if _loops_at_end("".join(body.split()), shortest=20, shortest_number=30):
        return True
    words = _WORD.findall(body.casefold())
    poor = sum(map(_in_poor_windows, map(_WORD.findall, _NOT_IN_SENTENCES.split(body.casefold()))))
    if words and 2 * poor >= len(words):
        return True
    if 2 * sum(map(str.isalpha, body)) < len(body):
        return False  # Tables of numbers repeat themselves.
    if _share_seen_before(tokens) >= 0.7:
        return True
    # What repeats with small changes, in scripts without spaces, too.
    encoded = body.encode("utf-8", "replace")
    size = len(encoded)
    plain = prose and 20 * len(_STRUCTURE.findall(body)) < size
    most = next(share for least, share in _SQUEEZED if size >= least) if plain else 0.1 * (size >= 400)
    return len(zlib.compress(encoded, 9)) - 8 < most * size


def _loops_at_end(tokens: Sequence[str], *, shortest: int, shortest_number: int) -> bool:
    """Whether one period, four times or more, makes up the latter half or more."""
    backwards = tokens[::-1]
    n = len(backwards)
    for period, same in enumerate(_prefix_matches(backwards)):
        length = period + same
        if period and length >= max(4 * period, n / 2, shortest):
            unit = backwards[:period]
            return length >= shortest_number or any(map(_has_letter_or_sign, unit))
    return False


def _has_letter_or_sign(token: str) -> bool:
    return not token.isdecimal()


def _prefix_matches(items: Sequence[Hashable]) -> list[int]:
    """The Z function: for each place, how many items from there on equal those from the start. Linear."""
    n = len(items)
    z = [0] * n
    left = right = 0
    for i in range(1, n):
        k = min(right - i, z[i - left]) if i < right else 0
        while i + k < n and items[k] == items[i + k]:
            k += 1
        z[i] = k
        if i + k > right:
            left, right = i, i + k
    return z


def _share_seen_before(words: Sequence[str], size: int = 6) -> float:
    """Share of runs of six words that stood in the text before."""
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if len(words) >= 30 else 0.0


def _in_poor_windows(words: Sequence[str]) -> int:
    """How many words lie inside some window of 24 words with at most 7 different ones."""
    size = min(_WINDOW, len(words))
    if size < 8:
        return 0
    counts: Counter[str] = Counter()
    covered = end = 0
    for i, word in enumerate(words):
        counts[word] += 1
        if i >= size:
            old = words[i - size]
            counts[old] -= 1
            if not counts[old]:
                del counts[old]
        if i >= size - 1 and len(counts) <= 0.3 * size:
            covered += i + 1 - max(end, i + 1 - size)
            end = i + 1
    return covered


def _is_soup(text: str, prose: bool) -> bool:
    visible = sum(not ch.isspace() for ch in text)
    alphanumeric = sum(map(str.isalnum, text))
    if not alphanumeric:
        return visible > 0
    undecodable = sum(ch == "\ufffd" or ("\ud800" <= ch <= "\uf8ff") or (ch < " " and not ch.isspace()) for ch in text)
    if undecodable >= 4 and undecodable >= 0.1 * visible:
        return True
    misread, pieces = len(_MISREAD.findall(text)), len(_PIECE.findall(text))
    if (misread >= 3 and misread >= 0.1 * visible) or (pieces >= 4 and pieces >= 0.1 * visible):
        return True
    if not prose:
        return False
    chunks = text.split()
    odd = sum(bool(_SIGNS.fullmatch(chunk) or _PIECE.search(f" {chunk}")) for chunk in chunks)
    return (visible >= 40 and alphanumeric < 0.15 * visible) or (len(chunks) >= 8 and odd >= 0.25 * len(chunks))
