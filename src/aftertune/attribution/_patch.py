"""A patch: a sparse, reversible edit of named matrices, as a safetensors file.

For every touched matrix the file holds sorted flat indices (row-major in the stored layout) and the weights' values
before and after, in the matrix's own type. Its JSON metadata holds the format version, the operation, how it was
found, the identity of the subject it was made for, and SHA-256 digests of each matrix before and of the content.
`apply` verifies the matrices it is about to touch, `undo` restores them bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aftertune.errors import OutputError, PatchError, UsageError
from aftertune.runs import write_bytes
from aftertune.subject import Matrix, WeightView

if TYPE_CHECKING:
    import torch

FORMAT = 1
Operation = Literal["zero", "scale", "restore"]
_KINDS = ("index", "before", "after")


@dataclass(frozen=True, eq=False)
class Edit:
    """What a patch does to one matrix.

    Attributes:
        index: flat indices into the stored tensor, sorted, int64, shape (n,).
        before: the values found there, in the matrix's type, shape (n,).
        after: the values it puts there, likewise.
        sha256: of the whole matrix before.
    """

    index: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    sha256: str


@dataclass(frozen=True, eq=False)
class Patch:
    """A sparse, reversible edit.

    Attributes:
        edits: by matrix name.
        operation: "zero", "scale" or "restore" (to a base's values).
        about: how it came to be: subject identity, formula, sign convention, fractions, data digests.
    """

    edits: Mapping[str, Edit]
    operation: Operation
    about: Mapping[str, Any]

    @property
    def weights(self) -> int:
        """How many scalars it touches."""
        return sum(edit.index.numel() for edit in self.edits.values())

    def apply(self, view: WeightView) -> None:
        """Put the new values in, where the old ones are found; `verify` also looks at the weights around them.

        Raises:
            PatchError: other values stand where the patch goes; nothing is changed.
        """
        self._require(view, "before")
        self._write(view, "after")

    def undo(self, view: WeightView) -> None:
        """Put the old values back, bit for bit.

        Raises:
            PatchError: the patch is not in these weights; nothing is changed.
        """
        self._require(view, "after")
        self._write(view, "before")

    def verify(self, view: WeightView) -> None:
        """Check whole matrices: they must be those the patch was made for, each weight of them.

        Raises:
            PatchError: one is absent, has another shape or type, or other values.
        """
        self._require(view, "before")
        for name, edit in self.edits.items():
            if matrix_digest(view[name]) != edit.sha256:
                raise PatchError(f"{name}: has other values than the patch was made for")

    def _require(self, view: WeightView, which: Literal["before", "after"]) -> None:
        _check_places(self, view)
        for name, edit in self.edits.items():
            if not _holds(view[name], edit, which):
                other = _holds(view[name], edit, "after" if which == "before" else "before")
                found = {"before": "the patch is applied already", "after": "the patch is not applied"}[which]
                raise PatchError(f"{name}: {found if other else 'has other values than the patch was made for'}")

    def _write(self, view: WeightView, which: Literal["before", "after"]) -> None:
        import torch

        with torch.no_grad():
            for name, edit in self.edits.items():
                flat = _flat(view[name])
                flat[edit.index.to(flat.device)] = getattr(edit, which).to(flat.device)

    @contextlib.contextmanager
    def applied(self, view: WeightView) -> Iterator[None]:
        """Apply for a block; the weights are as before afterwards, whatever happens in it."""
        self.apply(view)
        try:
            yield
        finally:
            self._write(view, "before")


def make_patch(
    view: WeightView, chosen: Mapping[str, torch.Tensor], operation: Operation, about: Mapping[str, Any],
    *, factor: float = 0.0, base: Mapping[str, torch.Tensor] | None = None,
) -> Patch:  # fmt: skip
    """A patch of the weights at flat indices ``chosen`` by matrix name; nothing is changed yet.

    Args:
        view: the weights it is made for.
        chosen: flat indices by matrix name, in any order, no duplicates.
        operation: "zero", "scale" (by ``factor``), or "restore" (to the values of ``base``).
        about: how the weights were found.
        factor: for "scale".
        base: for "restore": tensors by matrix name, of the same shapes.

    Raises:
        UsageError: nothing is chosen, an index is out of range or twice there, or a base is missing.
    """
    import torch

    edits = {}
    for name, index in chosen.items():
        if not index.numel():
            continue
        index = index.detach().to("cpu", torch.int64).sort().values
        flat = _flat(view[name])
        if index[0] < 0 or index[-1] >= flat.numel() or bool((index[1:] == index[:-1]).any()):
            raise UsageError(f"{name}: indices out of range, or the same one twice")
        before = flat[index.to(flat.device)].detach().cpu().clone()
        if operation == "restore":
            if base is None or name not in base:
                raise UsageError(f"{name}: there are no base values to restore")
            after = base[name].detach().reshape(-1)[index.to(base[name].device)].cpu().to(before.dtype)
        else:
            after = before * factor if operation == "scale" else torch.zeros_like(before)
        edits[name] = Edit(index, before, after, matrix_digest(view[name]))
    if not edits:
        raise UsageError("no weight is chosen; raise the prune fraction, or lower the keep fraction")
    return Patch(edits, operation, dict(about))


def _flat(matrix: Matrix) -> torch.Tensor:
    parameter = matrix.parameter.detach()
    return parameter.view(-1) if parameter.is_contiguous() else parameter.reshape(-1)


def matrix_digest(matrix: Matrix) -> str:
    """SHA-256 over a matrix's shape, type and bytes."""
    import torch

    flat = matrix.parameter.detach().contiguous().view(-1).cpu()
    digest = hashlib.sha256(f"{tuple(matrix.parameter.shape)}:{flat.dtype}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _holds(matrix: Matrix, edit: Edit, which: Literal["before", "after"]) -> bool:
    return _same_bits(_flat(matrix)[edit.index.to(matrix.parameter.device)], getattr(edit, which))


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    one, other = one.detach().cpu().contiguous(), other.contiguous()
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _check_places(patch: Patch, view: WeightView) -> None:
    for name, edit in patch.edits.items():
        if name not in view:
            raise PatchError(f"{name}: the model has no such matrix; the patch was made for another model")
        parameter = view[name].parameter
        if edit.before.dtype != parameter.dtype:
            raise PatchError(
                f"{name}: is {parameter.dtype}, the patch was made for {edit.before.dtype}; load it with that --dtype"
            )
        if int(edit.index[-1]) >= parameter.numel():
            raise PatchError(f"{name}: is too small; the patch was made for another model")


def write_patch(path: Path, patch: Patch) -> None:
    """Store a patch; an existing file is never overwritten.

    Raises:
        OutputError: the file exists, or may not be written.
    """
    from safetensors.torch import save

    if path.exists():
        raise OutputError(f"{path}: exists; patches are never overwritten, choose another --out")
    tensors = {
        f"{name}:{kind}": getattr(edit, kind).contiguous() for name, edit in patch.edits.items() for kind in _KINDS
    }
    header = {
        "format": FORMAT,
        "operation": patch.operation,
        "matrices": {name: edit.sha256 for name, edit in patch.edits.items()},
        "content": _content_digest(patch.edits),
        "about": dict(patch.about),
    }
    write_bytes(path, save(tensors, metadata={"aftertune_patch": json.dumps(header, allow_nan=False)}))


def read_patch(path: Path) -> Patch:
    """Read a patch and check that it is whole.

    Raises:
        PatchError: missing, no patch, of a newer format, truncated or tampered with.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["aftertune_patch"])
            if header["format"] != FORMAT:
                raise PatchError(f"{path}: has patch format {header['format']}, this reads {FORMAT}; update aftertune")
            edits = {
                name: Edit(**{kind: file.get_tensor(f"{name}:{kind}") for kind in _KINDS}, sha256=sha256)
                for name, sha256 in header["matrices"].items()
            }
    except OSError as error:
        raise PatchError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PatchError(f"{path}: is no patch, or a damaged one ({type(error).__name__})") from None
    for name, edit in edits.items():
        lengths = {edit.index.numel(), edit.before.numel(), edit.after.numel()}
        rising = bool((edit.index[1:] > edit.index[:-1]).all()) and bool((edit.index[:1] >= 0).all())
        if len(lengths) != 1 or 0 in lengths or edit.index.dtype != torch.int64 or not rising:
            raise PatchError(f"{path}: its indices for {name} are out of order; the file is damaged")
    if _content_digest(edits) != header["content"]:
        raise PatchError(f"{path}: its content does not match its digest; the file was changed")
    return Patch(edits, header["operation"], header["about"])


def _content_digest(edits: Mapping[str, Edit]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(edits):
        edit = edits[name]
        digest.update(f"{name}:{edit.sha256}:{edit.before.dtype}".encode())
        for kind in _KINDS:
            digest.update(getattr(edit, kind).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
