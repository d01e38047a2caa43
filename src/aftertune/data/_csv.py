"""CSV files: whole, in UTF-8, every row as long as its header says."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from aftertune.errors import DataError
from aftertune.runs import decode, read_bounded

MAX_BYTES = 64 * 2**20


def read_cells(path: Path, absent: str = "no such file; check the path") -> Iterator[tuple[int, list[str]]]:
    """(1-based line, cells) of every row that is not blank.

    Args:
        path: of the file.
        absent: what to say where there is none.

    Raises:
        DataError: not readable, no regular file, over 64 MiB, not UTF-8, or broken CSV.
    """
    try:
        raw = read_bounded(path, MAX_BYTES)
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
