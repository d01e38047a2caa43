"""Folders that are whole or absent."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aftertune.runs._atomic import explain_storage


@contextlib.contextmanager
def new_folder(folder: Path, *, shared: bool = False) -> Iterator[Path]:
    """A place to make ``folder`` in; it appears under its name when the block ends well, and never otherwise.

    What is yielded does not exist yet, has the folder's name, and lies in a scratch folder of its own beside it, which
    may hold other things meanwhile and is gone afterwards.

    Args:
        folder: where it is to be; parents are made.
        shared: a cache, which another process may have filled meanwhile with the same; that one then stays.

    Raises:
        OutputError: it may not be written, or exists.
        StorageError: no space is left.
    """
    with explain_storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}."
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix, ignore_cleanup_errors=True) as scratch:
            made = Path(scratch) / folder.name
            yield made
            try:
                made.rename(folder)
            except OSError:
                if not (shared and folder.exists()):
                    raise
