"""What an earlier run left behind, read with suspicion: disks, merges and people damage files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")

_LARGEST = 2**64  # digests aside, no whole number that a run writes is larger: file sizes, times, inodes
_MOST_BYTES = 2**28


def read_document(path: Path) -> Any:
    """The JSON document in a file of a run folder.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, holds no JSON, a key twice, NaN, infinity or a number beyond 64 bits.
        RecursionError: it is nested too deeply.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is no file")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path.name} is larger than any that aftertune writes")
    try:
        return json.loads(
            path.read_text("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_countable,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"holds {name}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("holds a number that is too large")
    return number


def _countable(text: str) -> int:
    if len(text) > 21 or abs(number := int(text)) > _LARGEST:
        raise ValueError("holds a number that is too large")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("holds a key twice")
    return found


def stored_as(kind: type[T], value: Any) -> T:
    """A frozen dataclass from the JSON values it was stored as; nothing is converted but lists to tuples.

    Args:
        kind: the dataclass; fields of it may be dataclasses again.
        value: the object read from a file.

    Raises:
        ValueError: a field is missing, unknown or of another type; a number is NaN or infinite.
    """
    from pydantic import ValidationError

    name = kind.__name__.lower()
    if not isinstance(value, Mapping):
        raise ValueError(f"a {name} is a {type(value).__name__}")
    if is_dataclass(kind) and (unknown := sorted(map(str, value.keys() - {f.name for f in fields(kind)}))):
        raise ValueError(f"a {name} has the unknown field {unknown[0]!r}")
    try:
        found: T = _adapter(cast("Any", kind)).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{where!r} of a {name}: {first['msg'].lower()}") from None
    return found


def stored_text(document: Mapping[str, Any], key: str) -> str:
    """The text under a key of a document that a run wrote.

    Raises:
        KeyError: there is none.
        ValueError: it is no text.
    """
    if not isinstance(document[key], str):
        raise ValueError(f"{key!r} is no text")
    return str(document[key])


def stored_identity(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The record of a model under a key of a document that a run wrote, which reports show by its name.

    Raises:
        KeyError: there is none.
        ValueError: it names no model.
    """
    found = document[key]
    if not (isinstance(found, dict) and isinstance(found.get("spec"), str) and "weights_sha256" in found):
        raise ValueError(f"{key!r} names no model")
    return found


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
