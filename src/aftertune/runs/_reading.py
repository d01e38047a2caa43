"""Files that a user names: regular ones only, and no more of them than fits.

A named pipe may wait for ever, a device may never end. Whatever reads a path that somebody else chose opens it
here, or calls `require_regular` before it hands the path to a library.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from aftertune.errors import DataError

if TYPE_CHECKING:
    from io import BufferedReader

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_FLAGS = ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY")


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, a device or a socket, without opening it. Links are followed.

    A path that does not exist, and a folder, are left to the caller, who knows what was wanted.

    Raises:
        DataError: it is no regular file.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return
    _refuse_endless(found, path)


def require_regular_inside(folder: str | os.PathLike[str]) -> None:
    """`require_regular` for everything that lies in a folder, folders in it left out.

    Raises:
        DataError: see `require_regular`.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    for entry in entries:
        require_regular(entry.path)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading bytes.

    Raises:
        DataError: a pipe, a device or a socket.
        OSError: as `open` would raise it, for a folder too.
    """
    require_regular(path)  # opening a device may already do something
    handle = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS))
    try:
        found = os.fstat(handle)  # the path may lead elsewhere by now
        _refuse_endless(found, path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises:
        DataError: no regular file, or a larger one.
        OSError: as `open` would raise it.
    """
    with open_regular(path) as file:
        content = file.read(most + 1) or b""
    if len(content) > most:
        raise DataError(f"is larger than {_size(most)}; is it the file you meant?", path=Path(path))
    return content


def _refuse_endless(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    for is_kind, name in _KINDS:
        if is_kind(found.st_mode):
            raise DataError(f"is {name}, no regular file; save its content as a file and name that", path=Path(path))


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"
