"""What a subject is made of, told without loading it: a run's identity.

The content of its own files, of all that lies beneath it (the base of an adapter, and the base of that), of its
patches, tokenizer and template; for models of the hub the commit. Where a folder lies and how old it is do not matter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftertune.errors import PatchError, SubjectError, UsageError
from aftertune.model._adapter_base import adapter_chain
from aftertune.model._file_digest import content_digest
from aftertune.model._spec import SubjectSpec, parse_spec

# Files that no loader of ours reads, by their endings: pickles, other frameworks, papers and pictures.
_UNREAD = frozenset({
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".md", ".pdf", ".png", ".jpg",
    ".jpeg", ".svg", ".gif", ".log", ".lock",
})  # fmt: skip
_WEIGHTS = ".safetensors"
_INDEX = ".safetensors.index.json"


def subject_content(
    spec: str, *, base: str | None = None, tokenizer: str | None = None, chat_template: str | None = None
) -> dict[str, Any]:
    """Digests of all files that decide a subject's numbers, as JSON values; equal for equal content.

    Args:
        spec: as in `load`, and so are the others.
        base: for an adapter, the spec of its base instead of the one in its config.
        tokenizer: where the tokenizer is taken from instead.
        chat_template: a Jinja file, or "plain".

    Raises:
        SubjectError: something in the chain is not there, or leads back to itself.
        PatchError: a patch cannot be read.
        UsageError: the template cannot be read.
    """
    found: dict[str, Any] = {}
    for link in reversed(adapter_chain(parse_spec(spec), base)):
        beneath = {"beneath": found} if found else {}
        patches = {"patches": [_patch(link, Path(file)) for file in link.patches]} if link.patches else {}
        found = {**_own(link), **patches, **beneath}
    if tokenizer is not None:
        found["tokenizer"] = _tokenizer(tokenizer)
    if chat_template not in (None, "plain"):
        found["template"] = _template(Path(str(chat_template)))
    return found


def _own(spec: SubjectSpec) -> dict[str, Any]:
    if spec.kind == "hub":
        return {"hub": spec.location, "commit": _commit(spec.location, spec.revision)}
    if spec.kind == "gguf":
        return {"gguf": content_digest(Path(spec.location))}
    if spec.kind == "embedded":
        from aftertune.model._embedded import WHEEL_SHA256, embedded_folder

        if os.environ.get("AFTERTUNE_SMOLLM2"):  # a folder that stands in for it; nothing is fetched then
            return {"files": _files(embedded_folder())}
        return {"wheel": WHEEL_SHA256}
    return {"files": _files(Path(spec.location))}


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub model stands for now, as far as the hub or its cache tells."""
    from transformers.utils.hub import resolve_revision

    found = resolve_revision(name, revision)
    commit: str | None = getattr(found, "resolved", found)
    return commit


def _patch(spec: SubjectSpec, file: Path) -> str:
    try:
        return content_digest(file)
    except SubjectError as error:
        raise PatchError(f"{spec.text}: {error}") from None


def _tokenizer(choice: str) -> dict[str, Any]:
    folder = Path(choice)
    if folder.is_dir():
        return {"files": _files(folder, weights=False)}
    name, _, revision = choice.partition("@")
    return {"hub": name, "commit": _commit(name, revision or None)}


def _template(file: Path) -> str:
    try:
        return content_digest(file)
    except SubjectError as error:
        raise UsageError(f"--chat-template {error}; give a Jinja file or 'plain'") from None


def _files(folder: Path, *, weights: bool = True) -> dict[str, str]:
    """SHA-256 of what a loader may read of a folder, by name."""
    try:
        names = sorted({str(file.relative_to(folder)) for file in _read(folder, weights=weights)})
    except OSError as error:
        raise SubjectError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return {name: content_digest(folder / name) for name in names}


def _read(folder: Path, *, weights: bool) -> Iterator[Path]:
    top = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    yield from (file for file in top if file.suffix not in _UNREAD and file.suffix != _WEIGHTS)
    # Templates beside the main one, and code that lies in a package; nested weights are those of an index.
    nested = [*folder.glob("additional_chat_templates/*"), *folder.glob("*/*.py")]
    yield from (file for file in nested if file.is_file() and not file.name.startswith("."))
    if not weights:
        return
    shards = {folder / name for file in top if file.name.endswith(_INDEX) for name in _shards(file)}
    yield from (file for file in shards if file.is_file())
    files = [file for file in top if file.suffix == _WEIGHTS]
    usual = [file for file in files if file.name.startswith(("model", "adapter_model"))]
    yield from usual if usual or shards else files


def _shards(index: Path) -> set[str]:
    """The files that an index names; what is wrong with it is told when it is loaded."""
    try:
        named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()
    return {name for name in named if isinstance(name, str) and ".." not in Path(name).parts}
