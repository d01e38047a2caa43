"""Whether an answer has the form that was asked for: JSON, or code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from aftertune.judges._function_words import FUNCTION_WORDS

_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*([\w+#.-]*)[^\n`]*$", re.MULTILINE)
_NOT_CODE = frozenset(("text", "txt", "plain", "plaintext", "markdown", "md", "output", "none"))
_WORD = re.compile(r"[^\W\d_]+")

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
    words = _WORD.findall(text.casefold())
    return len(words) >= 5 and sum(word in FUNCTION_WORDS for word in words) >= 0.25 * len(words)


def strings(text: str, limit: int = 8) -> Iterator[str]:
    """The first strings in JSON, whole or cut off, as they are written."""
    for _, match in zip(range(limit), re.finditer(r'"((?:[^"\\]|\\.)*)', text[:4000], re.DOTALL), strict=False):
        yield match[1].replace('\\"', '"').replace("\\n", "\n")
