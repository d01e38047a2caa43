"""Words that do not make sentences: unlike scripts, letters, keys struck at random, words without grammar."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aftertune.judges._function_words import FUNCTION_WORDS

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5}")
_VOWELS = "aeiouáàâãäåāąæéèêëēėęěíìîïīįıóòôõöøōőœúùûüūůűų"
_PROGRAM = re.compile(r"[{}();=<>`_\\]")

_SCRIPT_STARTS = (0, 0x370, 0x400, 0x530, 0x590, 0x600, 0x900, 0xE00, 0xE80, 0x1100, 0x1200, 0x1E00, 0x1F00, 0x2C00,
                  0x3040, 0xAC00, 0xD7B0)  # fmt: skip
_SCRIPTS = ("Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Indic", "Thai", "other", "Hangul", "other",
            "Latin", "Greek", "other", "CJK", "Hangul", "other")  # fmt: skip

# English words that none of some others follows in a sentence: (words, what cannot come next). Faulty agreement
# ("he have") is not among them: poor English is an answer.
_FINITE = "is are was were has had does did would could should may am been"
_CLASHES = (
    ("the a an", f"{_FINITE} the a an my your our their of with from into by at for on to about and or but if because"
     " than as that i he she we they it be not me him them us there then so who what how"),
    ("my your our their", f"{_FINITE} the a an my our their of with from into by at for to and or but if because than"
     " as that i he she we they it be not me him them us there then so who what how"),
    ("of with from into by at", f"{_FINITE} he she we they of than be not"),
    ("for to on in", f"{_FINITE} he she they than of"),
    ("to", "from with for at"),
    ("i he she we they", "the a an my your of with by into be been than or"),
    ("is are was were", "are was were has had does did would could should may am"),
)  # fmt: skip
_CANNOT_FOLLOW = {
    word: frozenset(after for first, then in _CLASHES if word in first.split() for after in then.split())
    for words, _ in _CLASHES
    for word in words.split()
}


def is_word_salad(text: str) -> bool:
    """Whether half of a text's words or more stand in no grammar, as far as counts can tell."""
    runs = list(_runs(text))
    words = [word for run in runs for word in run]
    if not words:
        return False
    long = [word for word in words if len(word) >= 50 and word.islower() and len(set(word)) > 5]
    if 2 * sum(map(len, long)) >= sum(map(len, words)):
        return True
    if _mixes_scripts(runs) or _is_letters(words, runs) or _is_keys(words):
        return True
    program = _PROGRAM.search(text) is not None
    return any(_lacks_grammar(part) or (not program and _clash(part)) for part in (runs, _latter_half(runs)))


def _runs(text: str) -> Iterator[list[str]]:
    """Words with nothing but spaces between them: what has commas or lines may be a list, and lists need no grammar."""
    run: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if run and text[end : match.start()].strip(" "):
            yield run
            run = []
        run.append(match.group())
        end = match.end()
    if run:
        yield run


def _latter_half(runs: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    left = sum(map(len, runs)) // 2
    half: list[Sequence[str]] = []
    for run in reversed(runs):
        half.insert(0, run[-left:])
        left -= len(run)
        if left <= 0:
            break
    return half


def _script(word: str) -> str:
    return _SCRIPTS[bisect_right(_SCRIPT_STARTS, ord(word[0])) - 1]


def _mixes_scripts(runs: Sequence[Sequence[str]]) -> bool:
    pairs = [(_script(a), _script(b)) for run in runs for a, b in pairwise(run)]
    switches = [pair for pair in pairs if pair[0] != pair[1]]
    return len(switches) >= 4 and 3 * len(switches) >= len(pairs) and len({s for pair in switches for s in pair}) >= 3


def _is_letters(words: Sequence[str], runs: Sequence[Sequence[str]]) -> bool:
    """Single letters over and over, as in "rew S B B B"; not the lines of a table of choices."""
    letters = [word for word in words if len(word) == 1 and word.isascii() and word not in "aAIoO"]
    together = sum(len(run) >= 4 for run in runs) > 0
    return together and len(letters) >= max(3, 0.6 * len(words)) and 2 * len(set(letters)) <= len(letters)


def _is_keys(words: Sequence[str]) -> bool:
    """Keys struck at random: words with five consonants on end are common."""
    long = [word for word in words if len(word) >= 5 and word.islower() and word.isascii()]
    hard = sum(bool(_CONSONANTS.search(word)) for word in long)
    return hard >= 4 and hard >= 0.4 * len(long) and 2 * len(long) >= len(words)


def _lacks_grammar(runs: Sequence[Sequence[str]]) -> bool:
    """Running words, hardly one of them a word that holds sentences together."""
    words = [word for run in runs for word in run]
    # In languages whose words we do not know most words end in a vowel; in English, and in salads of it, few do.
    unmarked = sum(word[-1].casefold() in _VOWELS for word in words) < 0.5 * len(words)
    latin = sum(_script(word) == "Latin" for word in words) >= 0.9 * len(words)
    held = sum(word.casefold().replace("’", "'") in FUNCTION_WORDS for word in words)
    return unmarked and latin and len(words) >= max(14, 5 * len(runs)) and held <= 0.07 * len(words)


def _clash(runs: Sequence[Sequence[str]]) -> bool:
    """Neighbours that no sentence has: in real texts one word in a thousand, in shuffled ones one in 25."""
    n_words = sum(map(len, runs))
    clashes = sum(b in _CANNOT_FOLLOW.get(_uncapitalised(a), ()) for run in runs for a, b in pairwise(run))
    return clashes >= (2 if n_words >= 20 else 3) and clashes >= 0.04 * n_words


def _uncapitalised(word: str) -> str:
    """As inside a sentence. A capital A alone is more often a grade or a point than an article."""
    return word if word == "A" else word.lower()
