"""Patches as files: safetensors with one JSON header, whole and unchanged or not read at all.

Every matrix NAME has three tensors, ``NAME:index``, ``NAME:before`` and ``NAME:after``; where most of the index is
unbroken, as of whole rows and matrices, ``NAME:runs`` stands in its place. The header holds the format
version, the operation, how the weights were found, each matrix's shape, layer, role and SHA-256 before, and a digest
of all this and the tensors. The digest reveals damage and careless edits; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from aftertune.errors import OutputError, PatchError
from aftertune.model._identity import content_digest
from aftertune.model._patch import Edit, Operation, Patch
from aftertune.model._vector_file import VECTOR_HEADER, attach_vector, is_vector
from aftertune.model._weights import WeightView
from aftertune.runs import Progress, explain_storage, require_regular, write_bytes

if TYPE_CHECKING:
    import torch

FORMAT = 2
READ = (1, 2)
HEADER = "aftertune_patch"
_KINDS = ("index", "before", "after")


def write_patch(path: Path, patch: Patch) -> None:
    """Store a patch; the same patch gives the same bytes. An existing file is never overwritten.

    Raises:
        PatchError: it was made without digests.
        OutputError: the file exists, or may not be written.
        StorageError: no space; nothing is left behind.
    """
    from safetensors.torch import save

    with explain_storage(path):
        taken = path.exists() or path.is_symlink()
    if taken:
        raise OutputError(f"{path}: exists; patches are never overwritten, choose another --out")
    if not all(edit.sha256 for edit in patch.edits.values()):
        raise PatchError(f"{path}: this patch was made without digests, for use in memory; make it with them")
    tensors = {f"{name}:{kind}": tensor for name, edit in patch.edits.items() for kind, tensor in _stored(edit).items()}
    runs = any(key.endswith(":runs") for key in tensors)
    header = {
        "format": FORMAT if runs else 1,
        "operation": patch.operation,
        "about": dict(patch.about),
        "matrices": {
            name: {"sha256": edit.sha256, "shape": list(edit.shape), "layer": edit.layer, "role": edit.role}
            for name, edit in patch.edits.items()
        },
    }
    header = json.loads(json.dumps(header, allow_nan=False))
    header["content"] = _content_digest(header, patch.edits)
    # One key only: safetensors writes several in an order that differs from time to time.
    write_bytes(path, save(tensors, metadata={HEADER: json.dumps(header)}))


def read_patch(path: Path) -> Patch:
    """Read a patch and check that it is whole.

    Raises:
        PatchError: missing, no patch, of another format, truncated or tampered with.
    """
    from safetensors import SafetensorError, safe_open

    require_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            stated = file.metadata() or {}
            if VECTOR_HEADER in stated:
                raise PatchError(
                    f"{path}: is a steering vector, not a patch; put it in force by naming SUBJECT+{path.name}"
                )
            header = json.loads(stated[HEADER])
            if header["format"] not in READ:
                found = str(header["format"])[:20]
                raise PatchError(f"{path}: has patch format {found}, this reads up to {FORMAT}; update aftertune")
            keys = set(file.keys())
            places = {name: "runs" if f"{name}:runs" in keys else "index" for name in header["matrices"]}
            if keys != {f"{name}:{kind}" for name, place in places.items() for kind in (place, "before", "after")}:
                raise ValueError("tensors and header do not match")
            edits = {
                name: Edit(
                    index=_index(file, name, places[name]),
                    **{kind: file.get_tensor(f"{name}:{kind}") for kind in ("before", "after")},
                    sha256=facts["sha256"],
                    shape=tuple(facts["shape"]),
                    layer=facts["layer"],
                    role=facts["role"],
                )
                for name, facts in header["matrices"].items()
            }
        sound = _is_sound(header, edits)
        changed = sound and header["content"] != _content_digest(header, edits)
    except OSError as error:
        raise PatchError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PatchError(f"{path}: is no patch, or a damaged one ({type(error).__name__})") from None
    if not sound:
        raise PatchError(f"{path}: its matrices or indices make no sense; the file is damaged")
    if changed:
        raise PatchError(f"{path}: its content does not match its digest; the file was changed")
    return Patch(edits, header["operation"], header["about"], path)


def _stored(edit: Edit) -> dict[str, torch.Tensor]:
    """An edit's tensors as they are stored; runs are (start, length) by row, int64."""
    import torch

    index = edit.index
    starts = torch.cat([torch.ones(1, dtype=torch.bool), index[1:] != index[:-1] + 1]).nonzero().squeeze(1)
    place = {"index": index.contiguous()}
    if 2 * len(starts) < len(index):
        lengths = torch.diff(starts, append=torch.tensor([len(index)]))
        place = {"runs": torch.stack([index[starts], lengths], 1).contiguous()}
    return {**place, "before": edit.before.contiguous(), "after": edit.after.contiguous()}


def _index(file: Any, name: str, place: str) -> torch.Tensor:
    """The flat positions; runs that do not fit the values are refused before they are written out."""
    import torch

    stored: torch.Tensor = file.get_tensor(f"{name}:{place}")
    if place == "index":
        return stored
    count = math.prod(file.get_slice(f"{name}:before").get_shape())
    starts, lengths = stored.unbind(1)
    if stored.dtype != torch.int64 or bool((lengths < 1).any() | (lengths > count).any()) or lengths.sum() != count:
        raise ValueError("runs do not fit the values")
    first = lengths.cumsum(0) - lengths
    return torch.arange(count) + (starts - first).repeat_interleave(lengths)


def _is_sound(header: Mapping[str, Any], edits: Mapping[str, Edit]) -> bool:
    about = header["about"]
    known = header["operation"] in get_args(Operation) and isinstance(about, dict) and _is_shallow(about)
    return known and bool(edits) and all(name.isprintable() and _fits(edit) for name, edit in edits.items())


def _is_shallow(value: Any, levels: int = 20) -> bool:
    """Whether nesting ends before it could exhaust whoever prints it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _fits(edit: Edit) -> bool:
    import torch

    index, before, after = edit.index, edit.before, edit.after
    if index.dtype != torch.int64 or before.dtype != after.dtype or not before.is_floating_point():
        return False
    if not index.numel() or index.ndim != 1 or not index.shape == before.shape == after.shape:
        return False
    if any(type(size) is not int for size in edit.shape) or not isinstance(edit.role, str):
        return False
    rising = bool((index[1:] > index[:-1]).all())
    inside = int(index[0]) >= 0 and int(index[-1]) < math.prod(edit.shape)
    return rising and inside and edit.role.isprintable() and (edit.layer is None or type(edit.layer) is int)


def _content_digest(header: Mapping[str, Any], edits: Mapping[str, Edit]) -> str:
    """SHA-256 over the header, but for the digest itself, and all tensors."""
    import torch

    stated = {key: value for key, value in header.items() if key != "content"}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True, allow_nan=False).encode())
    for name in sorted(edits):
        for kind in _KINDS:
            tensor = getattr(edits[name], kind).contiguous()
            digest.update(f"{name}:{kind}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def patch_facts(patch: Patch, whole: bool | None = None) -> dict[str, Any]:
    """What a record says of a patch that was read: ``file``, ``sha256`` of the file, ``operation``, ``weights``.

    Args:
        patch: as `read_patch` gave it.
        whole: what `Patch.verify` said, if it was asked; then there is also ``checked``: "whole matrices", or "touched
            weights" where the model stands in a narrower type.
    """
    assert patch.path is not None
    facts = {
        "file": patch.path.name,
        "sha256": content_digest(patch.path),
        "operation": patch.operation,
        "weights": patch.weights,
    }
    return facts if whole is None else {**facts, "checked": "whole matrices" if whole else "touched weights"}


def apply_patches(model: Any, files: Sequence[str | Path], progress: Progress | None = None) -> list[dict[str, Any]]:
    """Verify and apply patch files in order, each to what those before it left; vectors are attached.

    Args:
        model: a causal language model in memory, adapters merged.
        files: of the patches.
        progress: says where not all could be checked.

    Returns:
        The `patch_facts` of each; of a steering vector, those of `attach_vector`.

    Raises:
        PatchError: a file is no patch, or was made for other weights. Patches before it stay applied.
    """
    if not files:
        return []
    view, facts = WeightView(model), []
    for file in files:
        if is_vector(Path(file)):
            facts.append(attach_vector(model, Path(file), progress))
            continue
        patch = read_patch(Path(file))
        whole = patch.verify(view)
        patch.apply(view)
        if not whole and progress is not None:
            made_in = ", ".join(patch.dtypes)
            progress.say(f"{file}: made in {made_in}, so here only the touched weights could be checked")
        facts.append(patch_facts(patch, whole))
    return facts
