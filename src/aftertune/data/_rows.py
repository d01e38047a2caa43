"""Rows of JSON Lines, JSON arrays, CSV files and Hugging Face sets; every complaint names file and line."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aftertune.errors import DataError
from aftertune.runs import Unparsable, decode, open_regular, parse_json, parse_json_array, read_bounded, read_text

MAX_LINE_BYTES = 16 * 2**20
MAX_ARRAY_BYTES = 2**30
MAX_CSV_BYTES = 64 * 2**20
_HUB_ID = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+)(?::(?P<split>[\w.\[\]%:-]+))?$")


class Row(NamedTuple):
    """One JSON object and where it came from.

    Attributes:
        source: the file, or ``owner/name:split`` on the hub.
        line: its 1-based line; in an array and on the hub, its 1-based number.
        fields: the object.
        at: its 1-based line where ``line`` is a number, if it has one.
    """

    source: str
    line: int
    fields: Mapping[str, Any]
    at: int | None = None

    def error(self, problem: str, field: str | None = None) -> DataError:
        """A complaint about this row."""
        return DataError(problem, path=self.source, line=self.at_line, field=field)

    def text(self, field: str, *, empty: bool = False) -> str:
        """The string in ``field``.

        Raises:
            DataError: the field is missing, no string, or blank although ``empty`` is not allowed.
        """
        if field not in self.fields:
            raise self.error(f"is missing (the row has: {', '.join(sorted(self.fields)) or 'nothing'})", field)
        value = self.fields[field]
        if not isinstance(value, str):
            raise self.error(f"must be a string, not {type(value).__name__}", field)
        if not empty and is_blank(value):
            raise self.error("is empty; give it text or remove the row", field)
        return value

    def refuse_unknown(self, known: Sequence[str], kind: str) -> None:
        """Refuse fields that are not ``known`` in a row of this kind: a misspelt one would go unread.

        Raises:
            DataError: there is one; the first by name is told.
        """
        unknown = sorted(self.fields.keys() - set(known))
        if unknown:
            raise self.error(f"is unknown in a {kind} (known: {', '.join(known)})", unknown[0])

    @property
    def at_line(self) -> int:
        """Its 1-based line; on the hub its number."""
        return self.at or self.line


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it is empty, or all spaces, control and zero-width characters."""
    return not any(c.isprintable() and not c.isspace() for c in text)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same but for case, spacing, compatibility forms and zero-width characters."""
    return one == other or plain_text(one) == plain_text(other)


def plain_text(text: str) -> str:
    """A text without case, spacing, compatibility forms and zero-width characters; punctuation stays."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(shown.casefold().split())


def read_rows(source: str | Path) -> list[Row]:
    """Every row of a ``.jsonl``/``.json`` file, or of ``owner/name[:split]`` on the Hugging Face hub.

    Blank lines are skipped. A ``.json`` file may hold one array of objects instead of lines.

    Raises:
        DataError: missing, no regular file, empty, not UTF-8, broken JSON, a key that stands twice, a line over
            16 MiB (an array over 1 GiB), or not an object.
    """
    path = Path(source)
    try:
        exists, folder = path.exists(), path.is_dir()
    except OSError as error:
        name = f"{str(path)[:60]}..." if error.errno == errno.ENAMETOOLONG else path
        raise DataError(f"cannot be read ({error.strerror}); name a file", path=name) from None
    if folder:
        raise DataError("is a folder; name one .jsonl file in it", path=path)
    if exists:
        rows = list(_file_rows(path))
    elif (match := _HUB_ID.match(str(source))) and not path.suffix.lower().startswith(".json"):
        rows = _hub_rows(match["name"], match["split"] or "train")
    else:
        raise DataError("no such file; check the path", path=path)
    if not rows:
        raise DataError("holds no rows", path=path)
    return rows


def _file_rows(path: Path) -> Iterator[Row]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    with file:
        if path.suffix.lower() == ".json" and file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
            yield from _array_rows(path, os.fstat(file.fileno()).st_size)
            return
        file.seek(0)
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise DataError(
                    f"is longer than {MAX_LINE_BYTES // 2**20} MiB; put one JSON object on each line",
                    path=path,
                    line=number,
                )
            text = decode(raw, path, number).strip()
            if text:
                yield Row(str(path), number, _parse(text, path, number))


def _array_rows(path: Path, size: int) -> Iterator[Row]:
    if size > MAX_ARRAY_BYTES:
        raise DataError(f"is an array of more than {MAX_ARRAY_BYTES // 2**30} GiB; save it as .jsonl", path=path)
    try:
        for number, (line, value) in enumerate(parse_json_array(read_text(path, MAX_ARRAY_BYTES)), 1):
            yield Row(str(path), number, _object(value, path, line), line)
    except Unparsable as error:
        raise DataError(str(error), path=path, line=error.line) from None


def _parse(text: str, path: Path, line: int) -> Mapping[str, Any]:
    try:
        value = parse_json(text)
    except Unparsable as error:
        mend = _other_format(text, path) if line == 1 else ""
        raise DataError(f"{error}{mend}", path=path, line=line) from None
    return _object(value, path, line)


def _other_format(text: str, path: Path) -> str:
    """What to do with a file whose first line is no JSON, if its name or that line tells."""
    if path.suffix.lower() not in (".jsonl", ".json", ".ndjson"):
        return f"; rows are read from JSON Lines, so convert this {path.suffix or 'file'} to .jsonl"
    return "; name a file that holds one array .json" if text.startswith("[") else ""


def _object(value: Any, path: Path, line: int) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"must be a JSON object, not {type(value).__name__}", path=path, line=line)
    if not _is_text(value):
        raise DataError("holds half a surrogate pair (\\ud800 to \\udfff); mend its \\u escapes", path=path, line=line)
    return value


def _is_text(value: Any) -> bool:
    """Whether every string in a JSON value is Unicode text: an escape can smuggle in half a character."""
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            if not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
                return False
        elif isinstance(part, dict):
            rest += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            rest += part
    return True


def _hub_rows(name: str, split: str) -> list[Row]:
    import datasets

    source = f"{name}:{split}"
    try:
        table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises many kinds, from HTTP to pyarrow
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"neither a file nor readable from the Hugging Face hub ({reason})", path=source) from error
    return [Row(source, number, dict(row)) for number, row in enumerate(table, 1)]


def read_cells(path: Path, absent: str = "no such file; check the path") -> Iterator[tuple[int, list[str]]]:
    """(1-based line, cells) of every row that is not blank.

    Args:
        path: of the file.
        absent: what to say where there is none.

    Raises:
        DataError: not readable, no regular file, over 64 MiB, not UTF-8, or broken CSV.
    """
    try:
        raw = read_bounded(path, MAX_CSV_BYTES)
    except FileNotFoundError:
        raise DataError(absent, path=path) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({getattr(error, 'strerror', None) or error})", path=path) from None
    # Universal line ends are left to the reader, since a cell may hold any.
    reader = csv.reader(io.StringIO(decode(raw, path), newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"broken CSV ({error})", path=path, line=line) from None


def under_header(path: Path, header: Sequence[str], line: int, cells: Sequence[str]) -> dict[str, str]:
    """Cells by the names of their columns; a short row lacks its last ones.

    Raises:
        DataError: more cells than the header has.
    """
    if len(cells) > len(header):
        problem = f"has {len(cells)} cells under a header of {len(header)}; put text with commas in quotes"
        raise DataError(problem, path=path, line=line)
    return dict(zip(header, cells, strict=False))


def refuse_doubled(path: Path, header: Sequence[str], line: int) -> None:
    """Refuse a header that names a column twice, case aside; blank names do not count.

    Raises:
        DataError: it does.
    """
    names = Counter(name.strip().casefold() for name in header if name.strip())
    for name, count in names.items():
        if count > 1:
            raise DataError(f"the header names {count} columns {name[:60]!r}; keep one", path=path, line=line)
