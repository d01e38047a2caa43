"""Rows that register themselves: a probe, task, study, defence or screen is one file that exports one row.

A row is a frozen dataclass with a ``name`` and a ``rank``, its builder and its metrics. A module of a room exports
it as ``PROBE``, ``TASK``, ``STUDY``, ``DEFENCE`` or ``SCREEN``, and is found because it lies in the room: there is
no second list to keep. Rows of other people come from

- installed packages with an entry point of the group ``aftertune`` that names a module, and
- Python files named in the environment variable ``AFTERTUNE_EXTENSIONS`` (separated like ``PATH``), or by
  ``aftertune --extension FILE``, which sets it.

All of that code is run, with all rights of this process: name and install only what you trust. Nothing is imported
before the first call of `rows`, so call it in functions, never while a module is imported.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeVar

from aftertune.errors import DataError, UsageError

__all__ = ["EXTENSIONS", "KINDS", "Row", "foreign_sha256", "row_named", "rows"]

EXTENSIONS = "AFTERTUNE_EXTENSIONS"
KINDS = ("PROBE", "TASK", "STUDY", "DEFENCE", "SCREEN")
_importing: set[str] = set()  # extensions that are being imported now
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Row(Protocol):
    """What every row has; rows are listed by rank, then by name."""

    @property
    def name(self) -> str:
        """What the command line calls it: a lower-case letter, then letters, digits, ``-`` and ``_``."""

    @property
    def rank(self) -> int:
        """Where it stands in lists; rows of one rank are sorted by name."""


R = TypeVar("R", bound=Row)


def rows(room: str, kind: str, row_type: type[R]) -> tuple[R, ...]:
    """All rows of a kind: those of the modules in a room, and those of extensions.

    Args:
        room: package below ``aftertune``, such as ``probes``; every module directly in it is imported.
        kind: one of `KINDS`: the module-level name that a row is exported as.
        row_type: what the row must be an instance of.

    Raises:
        DataError: an extension cannot be imported or exports no row, a row has the wrong type or a name that cannot
            be typed, or two rows share a name.
    """
    # An extension may itself ask for rows while it is imported. It gets all but its own, which nobody must remember.
    find = _found.__wrapped__ if _importing else _found
    return find(room, kind, row_type, os.environ.get(EXTENSIONS, ""))


def row_named(room: str, kind: str, row_type: type[R], name: str) -> R:
    """The row of this name.

    Raises:
        UsageError: there is none; the message suggests a similar name, or lists all names.
        DataError: as `rows`.
    """
    by_name = {row.name: row for row in rows(room, kind, row_type)}
    if name in by_name:
        return by_name[name]
    close = difflib.get_close_matches(name, by_name, n=1)
    mend = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(by_name)}"
    raise UsageError(f"there is no {kind.lower()} named '{name}'; {mend}")


def foreign_sha256(made: type | Callable[..., object]) -> str | None:
    """SHA-256 of the file that defines a class or function, None for our own and for a console's.

    Records note it: two runs with settings of one name differ if the code behind that name does.
    """
    file = getattr(sys.modules.get(made.__module__), "__file__", None)
    if file is None or made.__module__.startswith("aftertune."):
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@functools.cache
def _found(room: str, kind: str, row_type: type[R], extensions: str) -> tuple[R, ...]:
    package = importlib.import_module(f"aftertune.{room}")
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    by_name: dict[str, tuple[R, ModuleType]] = {}
    for module in [*modules, *_extension_modules(extensions)]:
        if not hasattr(module, kind):
            continue
        row = _checked(getattr(module, kind), kind, row_type, module)
        other, where = by_name.setdefault(row.name, (row, module))
        if other is not row:
            raise DataError(
                f"{kind} is named '{row.name}', and so is that of {_file(where)}; rename one", path=_file(module)
            )
    return tuple(sorted((row for row, _ in by_name.values()), key=lambda row: (row.rank, row.name)))


def _checked(row: object, kind: str, row_type: type[R], module: ModuleType) -> R:
    if not isinstance(row, row_type):
        raise DataError(f"{kind} is a {type(row).__name__}; it must be a {row_type.__name__}", path=_file(module))
    name: object = row.name
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise DataError(
            f"{kind} is named {name!r}; begin with a letter, and use only lower-case letters, digits, - and _",
            path=_file(module),
        )
    return row


def _extension_modules(extensions: str) -> list[ModuleType]:
    """Import what users named: entry points first, then files in the order given, each file once."""
    modules = []
    for point in sorted(importlib.metadata.entry_points(group="aftertune"), key=lambda point: point.value):
        where = f"entry point aftertune, {point.value}"
        modules += _imported(point.value, where, functools.partial(importlib.import_module, point.value))
    for path in dict.fromkeys(Path(name).resolve() for name in extensions.split(os.pathsep) if name):
        name = f"aftertune_extension_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{path.stem}"
        modules += _imported(name, path, functools.partial(_module_of, path, name))
    return modules


def _imported(name: str, where: str | Path, load: Callable[[], ModuleType]) -> list[ModuleType]:
    """The module of an extension, or nothing while it is being imported.

    Raises:
        DataError: it cannot be imported, or exports no row.
    """
    if name in _importing:
        return []
    _importing.add(name)
    try:
        module = load()
    except (Exception, SystemExit) as error:
        raise DataError(_reason(error), path=where, line=_line(error, str(where))) from error
    finally:
        _importing.discard(name)
    if not any(hasattr(module, kind) for kind in KINDS):
        raise DataError(f"exports no row; assign one to {', '.join(KINDS[:-1])} or {KINDS[-1]}", path=_file(module))
    return [module]


def _module_of(path: Path, name: str) -> ModuleType:
    """The module of a user's file, imported once per process so that its rows are the same for all kinds."""
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file() or path.suffix != ".py":
        raise FileNotFoundError("it is no Python file (*.py) that can be read; check the path")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reason(error: BaseException) -> str:
    return f"cannot be imported: {type(error).__name__}: {error}"


def _line(error: BaseException, path: str) -> int | None:
    """The line of the user's file that broke, not that of a library it called."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None


def _file(module: ModuleType) -> str:
    return module.__file__ or module.__name__
