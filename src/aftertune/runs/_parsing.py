"""JSON and YAML of others, read strictly: what the libraries would let pass in silence is an error here.

A key that stands twice (of which the last would win), NaN and infinity (which JSON does not have), YAML that grows
beyond measure through its aliases, keys and numbers that YAML takes for something else than they look like.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from aftertune.errors import DataError
from aftertune.runs._reading import read_bounded

if TYPE_CHECKING:
    import yaml

MOST_YAML_VALUES = 200_000

_Parsed = TypeVar("_Parsed")

_ABSENT = "no such file; check the path"

_SPACE = re.compile(r"[ \t\n\r]*")
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_DISGUISED = re.compile(r"[-+]?0[0-7_]+|.*:.*")  # YAML 1.1: base 8, base 60


class Unparsable(ValueError):
    """A text that is no strict JSON or YAML.

    Attributes:
        line: 1-based line of the text, where it is known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


class YamlDocument(NamedTuple):
    """What a YAML text holds.

    Attributes:
        value: lists, mappings with text as keys, and scalars.
        lines: the 1-based line on which each entry of the outermost list or mapping begins.
    """

    value: Any
    lines: tuple[int, ...]


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        Unparsable: broken, nested too deeply, a key that stands twice, NaN, or a number out of range.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _unparsable_json(error) from None


def parse_json_array(text: str) -> Iterator[tuple[int, Any]]:
    """(1-based line, value) of every element of a text that holds one JSON array.

    Raises:
        Unparsable: see `parse_json`; the line is that of the mistake, or where its element begins.
    """
    line, counted = 1, 0
    try:
        at = _after(text, "[", _SPACE.match(text, 0).end())  # type: ignore[union-attr]
        more = text[at : at + 1] != "]"
        while more:
            line, counted = line + text.count("\n", counted, at), at
            value, at = _DECODER.raw_decode(text, at)
            yield line, value
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if more := text[at : at + 1] == ",":
                at = _after(text, ",", at)
        if (at := _after(text, "]", at)) != len(text):
            raise json.JSONDecodeError("Extra data", text, at)
    except (ValueError, RecursionError) as error:
        raise _unparsable_json(error, line) from None


def read_json(path: str | os.PathLike[str], most: int) -> Any:
    """The value of a JSON file of at most ``most`` bytes.

    Raises:
        DataError: not readable, no regular file, too large, not UTF-8, or see `parse_json`.
    """
    text = read_text(path, most)
    return _named(parse_json, text, path)


def read_yaml(path: str | os.PathLike[str], most: int, absent: str = _ABSENT) -> YamlDocument:
    """The content of a YAML file of at most ``most`` bytes; an empty one holds None.

    Args:
        path: of the file.
        most: bytes.
        absent: what to say where there is none.

    Raises:
        DataError: not readable, no regular file, too large, not UTF-8, or see `parse_yaml`.
    """
    text = read_text(path, most, absent)
    return _named(parse_yaml, text, path)


def _named(parse: Callable[[str], _Parsed], text: str, path: str | os.PathLike[str]) -> _Parsed:
    """What a parser makes of a file's text; its complaints name the file and the line."""
    try:
        return parse(text)
    except Unparsable as error:
        raise DataError(str(error), path=Path(path), line=error.line) from None


def read_text(path: str | os.PathLike[str], most: int, absent: str = _ABSENT) -> str:
    """The text of a UTF-8 file of at most ``most`` bytes; a byte order mark at its start is left out.

    Args:
        path: of the file.
        most: bytes.
        absent: what to say where there is none.

    Raises:
        DataError: not readable, no regular file, too large, or not UTF-8.
    """
    try:
        raw = read_bounded(path, most)
    except FileNotFoundError:
        raise DataError(absent, path=Path(path)) from None
    except IsADirectoryError:
        raise DataError("cannot be read, as it is a folder; name a file", path=Path(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read ({reason})", path=Path(path)) from None
    return decode(raw, path)


def decode(raw: bytes, path: str | os.PathLike[str], line: int = 1) -> str:
    """UTF-8 bytes as text; ``line`` is where in the file they begin.

    Raises:
        DataError: they are of another encoding, or compressed.
    """
    if line == 1:
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError("is not UTF-8 but UTF-16; save the file as UTF-8", path=Path(path))
        if raw[:2] == b"\x1f\x8b" or raw[:4] in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd"):
            raise DataError("is not UTF-8 but compressed; unpack it first", path=Path(path))
    if (at := raw.find(b"\0")) >= 0:
        raise DataError("holds zero bytes, so it is no text", path=Path(path), line=line + raw.count(b"\n", 0, at))
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(error.object)  # the codec leaves a byte order mark out
        above, column = raw.count(b"\n", 0, at), at - raw.rfind(b"\n", 0, at)
        problem = f"is not UTF-8 (byte {column}); save the file as UTF-8"
        raise DataError(problem, path=Path(path), line=line + above) from None


def parse_yaml(text: str) -> YamlDocument:
    """The one document of a YAML text.

    Raises:
        Unparsable: broken, nested too deeply, a key that is no text or stands twice, a value that contains itself,
            aliases that make it grow beyond 200,000 values, or a number in base 8 or 60.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return YamlDocument(None, ())
            _weigh(node, {}, set())
            entries = node.value if isinstance(node, yaml.SequenceNode) else []
            if isinstance(node, yaml.MappingNode):
                entries = [key for key, _ in node.value]
            lines = tuple(_line(entry) for entry in entries)
            return YamlDocument(loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except Unparsable:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        reason = _one_line(str(error.problem or error.context))
        raise Unparsable(f"broken YAML ({reason})", mark.line + 1 if mark else None) from None
    except RecursionError:
        raise Unparsable("broken YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:  # a date with month 13 is a ValueError
        raise Unparsable(f"broken YAML ({_one_line(str(error))})") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Unparsable(f"the key {_short(key)} stands twice in one object; keep one")
            seen.add(key)
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Unparsable(f"the number {text[:40]} is too large; write a finite one")
    return value


def _no_number(name: str) -> NoReturn:
    raise Unparsable(f"{name} is no JSON; write a number or null")


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_no_number)


def _after(text: str, sign: str, at: int) -> int:
    """Where the next thing begins after a sign that must stand at ``at``."""
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError("Expecting ',' delimiter" if sign == "]" else f"Expecting {sign!r}", text, at)
    return _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _unparsable_json(error: Exception, line: int | None = None) -> Unparsable:
    if isinstance(error, Unparsable):
        return Unparsable(str(error), error.line or line)
    if isinstance(error, RecursionError):
        return Unparsable("broken JSON (nested too deeply)", line)
    if isinstance(error, json.JSONDecodeError):
        return Unparsable(f"broken JSON at column {error.colno} ({error.msg})", error.lineno)
    return Unparsable("broken JSON (a number has too many digits)", line)


def _weigh(node: yaml.Node, weights: dict[int, int], within: set[int]) -> int:
    """How many values a node stands for, aliases written out; refuses what is not plain."""
    import yaml

    mark = id(node)
    if mark in weights:
        return weights[mark]
    if mark in within:
        raise Unparsable("broken YAML (a value contains itself)", _line(node))
    within.add(mark)
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        parts = [part for _, part in node.value]
    elif isinstance(node, yaml.ScalarNode) and _is_disguised(node):
        problem = f"{_short(node.value)} is a number in base 8 or 60 to YAML; write it as a decimal, or in quotes"
        raise Unparsable(problem, _line(node))
    weight = 1 + sum(_weigh(part, weights, within) for part in parts)
    if weight > MOST_YAML_VALUES:
        raise Unparsable(f"holds more than {MOST_YAML_VALUES:,} values, its aliases written out", _line(node))
    within.discard(mark)
    weights[mark] = weight
    return weight


def _is_disguised(node: yaml.ScalarNode) -> bool:
    """Whether a plain text is a number of another value than it looks."""
    return node.tag in _NUMBERS and not node.style and _DISGUISED.fullmatch(node.value) is not None


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag not in (_TEXT, _MERGE):
            shown = _short(key.value) if isinstance(key.value, str) else "a list or mapping"
            kind = key.tag.rpartition(":")[2]
            raise Unparsable(f"the key {shown} is no text but {kind} to YAML; put it in quotes", _line(key))
        if key.value in seen:
            raise Unparsable(f"the key {_short(key.value)} stands twice in one mapping; keep one", _line(key))
        seen.add(key.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _one_line(text: str) -> str:
    return " ".join(text.split())
