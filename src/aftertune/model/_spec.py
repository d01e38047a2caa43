"""One string names any subject."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aftertune.errors import PatchError, SubjectError, spelled_out
from aftertune.runs import require_regular, require_regular_inside

EMBEDDED = "smollm2"
_WIDEST = 60
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(?:@[\w./-]+)?$")

SubjectKind = Literal["embedded", "gguf", "adapter", "folder", "hub"]


@dataclass(frozen=True)
class SubjectSpec:
    """A parsed subject string.

    Attributes:
        text: the string as given.
        kind: how it is to be loaded.
        location: folder or file, hub id, or "smollm2".
        revision: a hub revision given after ``@``.
        patches: patch files given after ``+``, in the order they are applied.
        unpatched: the string without them.
    """

    text: str
    kind: SubjectKind
    location: str
    revision: str | None = None
    patches: tuple[str, ...] = ()
    unpatched: str = ""


def parse_spec(text: str | Path) -> SubjectSpec:
    """Tell what ``text`` names: a folder, an adapter folder, a .gguf file, ``smollm2``, or ``owner/name[@rev]``.

    Patch files may follow, each after a ``+``. A path that exists wins over a hub id of the same spelling, and over
    splitting at a ``+`` in it.

    Raises:
        SubjectError: it names nothing this package knows how to load.
        PatchError: what follows a ``+`` is no patch file.
    """
    text = str(text)
    unpatched, *patches = _parts(text)
    spec = _parse_unpatched(unpatched)
    for patch in patches:
        if not patch.endswith(".safetensors"):
            raise PatchError(f"{text}: after a + must come a patch file (.safetensors), not '{patch}'")
        if not _exists(patch):
            raise PatchError(f"{text}: there is no patch file {patch}; check the path")
    files = tuple(str(Path(patch).expanduser()) for patch in patches)
    return replace(spec, text=text, patches=files, unpatched=unpatched)


def _parts(text: str) -> list[str]:
    """Split at ``+``, but not inside a path that exists: from the left, the longest such path is one part."""
    pieces, parts = text.split("+"), []
    while pieces:
        longest = next((n for n in range(len(pieces), 1, -1) if _exists("+".join(pieces[:n]))), 1)
        parts.append("+".join(pieces[:longest]))
        del pieces[:longest]
    return parts


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, no such home, a null byte
        return False


def _place(text: str) -> Path:
    """The path that a text would be.

    Raises:
        SubjectError: it can be no path here: no such home, too long a name, a null byte, no right to look.
    """
    try:
        path = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower().rstrip(".")
        name = text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"
        raise SubjectError(f"{name}: cannot be read as a path ({reason}); check the spelling") from None
    return path


def _parse_unpatched(text: str) -> SubjectSpec:
    path = _place(text)
    require_regular(path)
    if path.is_dir():
        require_regular_inside(path)
        if (path / "adapter_config.json").exists():
            return SubjectSpec(text, "adapter", str(path))
        if (path / "config.json").exists():
            return SubjectSpec(text, "folder", str(path))
        inner = subjects_inside(path)
        hint = f"; did you mean {path / inner[0]}?" if inner else ""
        if len(inner) > 1:
            hint += f" (it holds {', '.join(inner[:4])}{' …' if len(inner) > 4 else ''})"
        raise SubjectError(f"{text}: the folder has neither config.json nor adapter_config.json{hint}")
    if path.is_file():
        if path.suffix == ".gguf":
            return SubjectSpec(text, "gguf", str(path))
        raise SubjectError(f"{text}: a file that is no .gguf; name the folder that holds the model")
    if text == EMBEDDED:
        return SubjectSpec(text, "embedded", EMBEDDED)
    looks_local = text.startswith((".", "/", "~")) or text.endswith((".gguf", ".safetensors"))
    if _HUB_ID.match(text) and not looks_local:
        name, _, revision = text.partition("@")
        return SubjectSpec(text, "hub", name, revision or None)
    raise SubjectError(
        f"{text}: no such subject; give a model folder, an adapter folder, a .gguf file, "
        f"a hub id (owner/name), or {EMBEDDED}"
    )


def subjects_inside(folder: Path) -> list[str]:
    """Names of the folders in a folder that hold a model or an adapter: the likeliest first, then the latest step."""
    try:
        names = [
            path.name
            for path in folder.iterdir()
            if (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
        ]
    except OSError:
        return []
    return [spelled_out(name) for name in sorted(names, key=_age)]


def _age(name: str) -> tuple[bool, int, str]:
    step = re.fullmatch(r"\D*-(\d{1,18})", name)
    return name not in ("model", "final"), -int(step[1]) if step else 0, name
