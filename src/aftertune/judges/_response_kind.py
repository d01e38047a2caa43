"""What kind of response a text is, before any judge reads it: by its form, its language and its opening."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal, NoReturn, get_args

from aftertune.judges._gibberish import ENGLISH_ONLY, FOREIGN_ONLY, FUNCTION_WORDS, is_gibberish
from aftertune.judges._refusing import opens_with_refusal

_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*([\w+#.-]*)[^\n`]*$", re.MULTILINE)
_NOT_CODE = frozenset(("text", "txt", "plain", "plaintext", "markdown", "md", "output", "none"))
_LETTERS = re.compile(r"[^\W\d_]+")

# Where an object, or a list of more than numbers, may begin. "[1]" in prose is a footnote.
_JSON_START = re.compile(r'\{\s*"|\[\s*[\[{"]')
_TRIES = 20

_SQL = re.compile(
    r"""^[ \t]*(?:SELECT\b[^;]{1,500}?\bFROM\b | INSERT\s+INTO\b | DELETE\s+FROM\b | UPDATE\s+[\w."]+\s+SET\b
    | WITH\s+\w+\s+AS\s*\(
    | (?:CREATE|ALTER|DROP)\s+(?:TEMP\s+|UNIQUE\s+|OR\s+REPLACE\s+)?(?:TABLE|VIEW|INDEX|DATABASE|FUNCTION|USER)\b
    | select\s+(?:\*|[\w.]+(?:\s*,\s*[\w.]+)*)\s+from\s+[\w.]+\s*(?:;|$|where\s+[\w.]+\s*[=<>]))""",
    re.VERBOSE | re.MULTILINE,
)
_CODE_LINE = re.compile(
    r"""\s*(?:
      .*[{};] | [\])}]+[,;)]*
    | [A-Za-z_$][\w.$]*(?:\[[^\]\n]*\])?(?:\s*,\s*[A-Za-z_][\w.]*)*(?:\s*:\s*[\w\[\], .|]+)?
      \s*(?:[-+*/|&^%:]?=(?!=)|<-)\s*\S.*
    | (?:await\s+|return\s+)?[A-Za-z_][\w.]*!?\(.*[)\]]
    | (?:async\s+)?(?:def|class|fn|func|fun|function|sub|struct|impl|interface|module|namespace)\s+\w[\w.]*\s*[(:{<].*
    | from\s+[\w.]+\s+import\s+[\w*(].* | import\s+[\w.]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+(?:\s+as\s+\w+)?)*
    | (?:if|elif|while|for|with|except|switch|match|case)\b.*(?:[()=<>\[\]."']|\ in\ ).*: | (?:else|try|finally)\s*:
    | (?:let|const|var|val)\s+\w+.*= .* | return\s+(?:[\w.]+|.*[\[\](){}+*/%=<>"'].*) | @\w[\w.]*(?:\(.*\))?
    | \#include\s*[<"].* | \#!/.* | >>>\s.* | \$\s+[a-z].* | <!DOCTYPE\b.* | <\?(?:php|xml)\b.*
    | </?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>.*
    | (?:sudo\s+)?[a-z][\w.-]*\s(?:.*\s)?(?:-{1,2}[A-Za-z][\w-]*|\|\s+\w+|[<>]{1,2}\s*[\w./]+)(?:[\s=].*)?
    | (?:sudo\s+)?(?:git|pip3?|npm|npx|yarn|cargo|docker|kubectl|apt|apt-get|brew|conda|uv|go)\s
      (?:init|clone|commit|add|push|pull|checkout|install|uninstall|run|build|exec|get|apply|update|upgrade|test|start)\b.*
    | (?:cd|ls|cat|rm|cp|mv|mkdir|echo|export|source|curl|wget|python3?|node|bash|sh)\s+["'$~./-]\S*.*
    | \[.*\bfor\b.*\bin\b.*\] | lambda\b.*:.* | \(?.*\)?\s*=>\s*\S.*
    )""",
    re.VERBOSE,
)


def holds_json(text: str) -> bool:
    """Whether a text is a JSON value, or holds an object or a list; code fences do not count.

    Strict JSON (RFC 8259): no comments, trailing commas, single quotes, or NaN. Of a text that is more than a value
    the first twenty places where an object or a list may begin are tried.
    """
    body = _FENCE.sub("", text).strip()
    if _parses(body):
        return True
    decoder = json.JSONDecoder(parse_constant=_refuse)
    starts = (match.start() for _, match in zip(range(_TRIES), _JSON_START.finditer(body), strict=False))
    return any(_parses(body, decoder, start) for start in starts)


def _parses(body: str, decoder: json.JSONDecoder | None = None, start: int = 0) -> bool:
    try:
        if decoder is None:
            json.loads(body, parse_constant=_refuse)
        else:
            decoder.raw_decode(body, start)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def holds_code(text: str) -> bool:
    """Whether a text holds code: a line of the shape that lines of programs, markup or shell commands have.

    What stands in a fence that names a language counts as well, unless it reads as prose.
    """
    outside, fenced = split_fences(text)
    if any(map(_has_code_line, [outside, *(block for _, block in fenced)])):
        return True
    return any(language and language not in _NOT_CODE and not _is_prose(block) for language, block in fenced)


def split_fences(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands outside code fences, and (language, text) of each fence; the last may be open."""
    outside: list[str] = []
    fenced: list[tuple[str, str]] = []
    language: str | None = None
    end = 0
    for match in [*_FENCE.finditer(text), None]:
        piece = text[end : match.start() if match else len(text)]
        if language is None:
            outside.append(piece)
        elif piece.strip():
            fenced.append((language, piece))
        if match:
            language = match[1].casefold() if language is None else None
            end = match.end()
    return "\n".join(outside), fenced


def code_lines(text: str) -> str:
    """What stands between the first and the last line of a text that have the shape of code."""
    lines = text.splitlines()
    shaped = [number for number, line in enumerate(lines) if _is_code_line(line)]
    return "\n".join(lines[shaped[0] : shaped[-1] + 1]) if shaped else ""


def _has_code_line(text: str) -> bool:
    stripped = text.strip()
    if stripped[:1] == stripped[-1:] == "`":
        text = stripped.strip("`")
    return bool(_SQL.search(text)) or any(map(_is_code_line, text.splitlines()))


def _is_code_line(line: str) -> bool:
    line = line.rstrip()[:200]
    return bool(line) and _CODE_LINE.fullmatch(line) is not None


def _is_prose(text: str) -> bool:
    words = _LETTERS.findall(text.casefold())
    return len(words) >= 5 and sum(word in FUNCTION_WORDS for word in words) >= 0.25 * len(words)


def strings(text: str, limit: int = 8) -> Iterator[str]:
    """The first strings in JSON, whole or cut off, as they are written."""
    for _, match in zip(range(limit), re.finditer(r'"((?:[^"\\]|\\.)*)', text[:4000], re.DOTALL), strict=False):
        yield match[1].replace('\\"', '"').replace("\\n", "\n")


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


ResponseKind = Literal["answer", "refusal", "gibberish", "empty", "truncated", "off_format", "unsorted"]
ResponseForm = Literal["text", "json", "code", "template"]

RESPONSE_KINDS: tuple[ResponseKind, ...] = get_args(ResponseKind)

# As many signs without a letter or digit are still nothing: "...", "**", '""'. More are gibberish.
_BARE = 5

_SPECIAL = re.compile(
    r"""<\|im_start\|>(?:assistant|user|system)? | <\|start_header_id\|>\w{0,20}<\|end_header_id\|>
    | <start_of_turn>(?:model|user)? | <end_of_turn> | <[|｜][^<>|｜\s]{1,40}[|｜]> | </?s> | <</?SYS>> | \[/?INST\]
    | <(?:pad|eos|bos|unk|mask|cls|sep|eod|eot)> | \[(?:PAD|EOS|BOS|UNK|MASK|CLS|SEP)\]
    | <(?:extra_id_|unused)\d{1,4}>""",
    re.VERBOSE,
)
_FENCE_LINE = re.compile(r"^[ \t]*```+[\w+#.-]*[ \t]*$", re.MULTILINE)
# Names that makers of models give to the block in which theirs think.
_BLOCK = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)"
_THINKING = re.compile(rf"<{_BLOCK}>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING)\|>")
_THOUGHT = re.compile(rf"</{_BLOCK}>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>")
# Answers in channels, as gpt-oss gives them: what is not in the last final one was not said to the user.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_TURN_ENDS = re.compile(r"<\|(?:end|return|call)\|>")


def response_kind(text: str, *, truncated: bool = False, form: ResponseForm = "text") -> ResponseKind:
    """Sort one generated response, without a model.

    The first that holds decides:

    - *empty*: no letter and no digit beside white space, special tokens, a block of thinking, and a few signs;
    - *gibberish*: half of it or more is a loop, a soup of signs, or words without grammar;
    - *refusal*: it opens by declining (English only), cut off or not; in JSON, one of its first strings does;
    - *unsorted*: prose in another language, which these rules cannot read; whether it declines stays open;
    - *truncated*: generation stopped at its limit;
    - *off_format*: JSON or code was asked for, and there is none;
    - *answer*: everything else, good or bad, right or wrong.

    The same text gives the same kind; time grows linearly with its length. Agreement with our own labels: 97 of 100
    rows on which no rule was made (Cohen's kappa 0.96), labelled by those who wrote the rules.

    Args:
        text: what the subject generated, prompt excluded. Thinking that ends with `</think>` (or another tag of the
            sort), and channels other than the final one, are not part of the answer; thinking that never ends leaves
            the answer truncated or empty.
        truncated: whether generation stopped at its limit of tokens.
        form: what was asked for; "template" is a form to fill in, for which no check is made.

    Returns:
        One of `RESPONSE_KINDS`.
    """
    body, thinking = _said(text)
    body = body.strip()
    if not truncated and thinking:
        return "empty"
    signs = [ch for ch in _FENCE_LINE.sub("", body) if not ch.isspace() and unicodedata.category(ch) != "Cf"]
    if len(signs) <= _BARE and not any(map(str.isalnum, signs)):
        return "empty"
    if is_gibberish(body, prose=form in ("text", "template")):
        return "gibberish"
    openings = [body, *strings(body)] if form == "json" else [body]
    if not thinking and any(map(opens_with_refusal, openings)):
        return "refusal"
    if form in ("text", "template") and not thinking and is_foreign(body):
        return "unsorted"
    if truncated:
        return "truncated"
    if (form == "json" and not holds_json(body)) or (form == "code" and not holds_code(body)):
        return "off_format"
    return "answer"


def answer_text(text: str) -> str:
    """What a response answers: without special tokens and thinking, "" where it never came to an end of that."""
    body, thinking = _said(text)
    return "" if thinking else body


def _said(text: str) -> tuple[str, bool]:
    """What was said to the user, or the thinking itself where nothing was; and whether it is the latter."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = next((c for c in reversed(channels) if c[1] == "final"), None)
        shown = _TURN_ENDS.split(text[(final or channels[-1]).end() :], maxsplit=1)[0]
        return _SPECIAL.sub(" ", shown), final is None
    body, thinking = _without_thinking(text)
    return _SPECIAL.sub(" ", body), thinking


def _without_thinking(text: str) -> tuple[str, bool]:
    """What follows the thinking, or the thinking itself where nothing does; and whether it is the latter."""
    start = _THINKING.match(text.lstrip())
    # Templates may open the block in the prompt, so that only its end is generated.
    if end := _THOUGHT.search(text):
        return text[end.end() :] if start or not _THINKING.search(text, 0, end.start()) else text, False
    return (text.lstrip()[start.end() :], True) if start else (text, False)
