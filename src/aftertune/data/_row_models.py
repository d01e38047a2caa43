"""Rows as pydantic reads them: a frozen dataclass says what a row holds, one reader says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from aftertune.data._rows import Row, is_blank, read_rows

_ORIGIN = ("source", "line")
_ADAPTERS: dict[type[RowModel], TypeAdapter[Any]] = {}  # made once: it costs more than reading a row


def _seen(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("blank", "is empty; give it text or remove the row")
    return text


Text = Annotated[str, AfterValidator(_seen)]
"""A string of which something can be seen."""


@dataclass(frozen=True)
class RowModel:
    """What one row of a file holds. A subclass lists the fields; ``source`` and ``line`` are where it came from.

    Attributes:
        KIND: what the row is called in messages.
        OPEN: whether a row may hold fields that nobody reads; else an unknown one is an error, as it may be misspelt.
    """

    KIND: ClassVar[str] = "row"
    OPEN: ClassVar[bool] = False

    def fault(self) -> tuple[str, str] | None:
        """The field and what is wrong with it, where every field by itself is right."""
        return None


Model = TypeVar("Model", bound=RowModel)


def parse(model: type[Model], row: Row) -> Model:
    """One row as a model.

    Raises:
        DataError: a field that is missing, unknown or has a wrong value; it names file, line and field.
    """
    names = [field.name for field in fields(model) if field.name not in _ORIGIN]
    if not model.OPEN:
        row.refuse_unknown(names, model.KIND)
    values: dict[str, Any] = {name: row.fields[name] for name in names if name in row.fields}
    origin = {"source": row.source, "line": row.at_line}
    values |= {field.name: origin[field.name] for field in fields(model) if field.name in _ORIGIN}
    try:
        parsed = _adapter(model).validate_python(values)
    except ValidationError as error:
        field, problem = _complaint(error.errors(include_url=False)[0], row.fields)
        raise row.error(problem, field) from None
    if fault := parsed.fault():
        raise row.error(fault[1], fault[0])
    return parsed


def read(model: type[Model], source: str | Path) -> list[Model]:
    """Every row of a file or hub set as a model; where the model has an ``id``, the ids are distinct.

    Raises:
        DataError: see `read_rows` and `parse`; or an id that stands twice.
    """
    rows = read_rows(source)
    parsed = [parse(model, row) for row in rows]
    if not any(field.name == "id" for field in fields(model)):
        return parsed
    seen: dict[str, int] = {}
    for row in rows:
        name = row.fields["id"]
        if name in seen:
            raise row.error(f"{name!r} stands already on line {seen[name]}; give each {model.KIND} its own", "id")
        seen[name] = row.line
    return parsed


def _adapter(model: type[Model]) -> TypeAdapter[Model]:
    if model not in _ADAPTERS:
        _ADAPTERS[model] = TypeAdapter(model)
    return _ADAPTERS[model]


def _complaint(error: ErrorDetails, given: Mapping[str, Any]) -> tuple[str, str]:
    """The field, such as ``choices[1]``, and what is wrong with it, in our words."""
    first, *rest = error["loc"]
    field = str(first) + "".join(f"[{part}]" for part in rest)
    if error["type"] == "missing":
        return field, f"is missing (the row has: {', '.join(sorted(given)) or 'nothing'})"
    if error["type"] == "string_type":
        mend = "; put it in quotes" if isinstance(error["input"], bool | int | float) else ""
        return field, f"must be a string, not {type(error['input']).__name__}{mend}"
    if error["type"] in ("tuple_type", "list_type"):
        return field, f"must be a list, not {type(error['input']).__name__}"
    message = re.sub("^Input should be ", "must be ", error["msg"]).removeprefix("Value error, ")
    return field, message if message != error["msg"] or error["type"] == "blank" else f"is wrong ({message})"
