"""Whether a text is in a language that the rules on sampled answers do not know: any but English."""

from __future__ import annotations

import re
import unicodedata

from aftertune.judges._function_words import ENGLISH_ONLY, FOREIGN_ONLY

_READ = 2000  # characters, which is enough to tell
_FEWEST = 3  # words: fewer may be a name, a number or a title
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|^[ \t]*\|[^\n]*", re.DOTALL | re.MULTILINE)  # and rows of tables
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SCRIPTS_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def is_foreign(text: str) -> bool:
    """Whether a text is prose in another language than English.

    It is, if most of its letters are of another script than Latin. In the Latin script it is, if it has more function
    words that only other languages have than function words that only English has. Code, tables, lists of nouns, and
    less than three words count as English, and names are passed over.

    Args:
        text: what to look at; the first 2,000 characters are read.
    """
    prose = _CODE.sub(" ", text[:_READ])
    letters = [ch for ch in prose if ch.isalpha()]
    words = _WORD.findall(prose)
    others = [ch for ch in letters if not unicodedata.name(ch, "").startswith("LATIN")]
    if letters and 2 * len(others) > len(letters):
        unspaced = sum(unicodedata.name(ch, "").startswith(_SCRIPTS_WITHOUT_SPACES) for ch in others)
        return len(words) >= _FEWEST or unspaced > _FEWEST
    # What is capitalised within a sentence may be a name: "van" in "Ludwig van Beethoven" makes no Dutch.
    kept = [word for i, word in enumerate(words) if len(word) > 1 and (i == 0 or word[0].islower())]
    plain = [word.replace("’", "'").casefold() for word in kept]
    if len(plain) < _FEWEST:
        return False
    english = sum(word in ENGLISH_ONLY for word in plain)
    foreign = sum(word in FOREIGN_ONLY for word in plain)
    return foreign > english
