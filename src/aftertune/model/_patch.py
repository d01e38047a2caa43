"""A patch: a sparse, reversible edit of named matrices.

For every touched matrix it holds sorted flat indices (row-major in the stored layout) and the weights' values before
and after, in the type the matrix had when the patch was made. In weights of another type it works too: its values
are cast as a checkpoint's are when it is loaded. Whatever the type, a patch goes only where the very bits stand that
it was made for.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aftertune.errors import PatchError, UsageError
from aftertune.model._weights import Matrix, WeightView

if TYPE_CHECKING:
    import torch

Operation = Literal["zero", "scale", "restore", "remove"]
_State = Literal["before", "after"]


@dataclass(frozen=True, eq=False)
class Edit:
    """What a patch does to one matrix.

    Attributes:
        index: flat indices into the stored tensor, sorted, int64, shape (n,).
        before: the values found there, in the matrix's type, shape (n,).
        after: the values it puts there, likewise.
        sha256: of the whole matrix before, in that type; empty where it was not taken.
        shape: of the stored tensor.
        layer: number of the matrix's decoder layer.
        role: what the matrix is within its layer, such as "mlp.down_proj".
    """

    index: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    sha256: str
    shape: tuple[int, ...]
    layer: int | None
    role: str


class _Touched(NamedTuple):
    """Where an edit goes in the weights at hand, and its values in their type."""

    name: str
    target: torch.Tensor
    where: Any
    before: torch.Tensor
    after: torch.Tensor

    def holds(self, state: _State) -> bool:
        return _same_bits(self.target[self.where], getattr(self, state))


@dataclass(frozen=True, eq=False)
class Patch:
    """A sparse, reversible edit.

    Attributes:
        edits: by matrix name.
        operation: "zero", "scale", "restore" (to a base's values), or "remove" (singular directions, from whole
            matrices).
        about: how it came to be, as JSON values: subject identity, formula, sign convention, fractions, data digests.
        path: the file it was read from, for complaints.
    """

    edits: Mapping[str, Edit]
    operation: Operation
    about: Mapping[str, Any]
    path: Path | None = None

    @property
    def weights(self) -> int:
        """How many scalars it touches."""
        return sum(edit.index.numel() for edit in self.edits.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types of the weights it was made for, such as "float32"."""
        return tuple(sorted({_plain(edit.before.dtype) for edit in self.edits.values()}))

    def apply(self, view: WeightView) -> None:
        """Put the new values in, where the old ones are found; `verify` also looks at the weights around them.

        Raises:
            PatchError: other values stand where the patch goes; nothing is changed.
        """
        self._replace(view, "before", "after")

    def undo(self, view: WeightView) -> None:
        """Put back, bit for bit, the values that stood where the patch went.

        Raises:
            PatchError: the patch is not in these weights; nothing is changed.
        """
        self._replace(view, "after", "before")

    def verify(self, view: WeightView) -> bool:
        """Check that these are the weights the patch was made for, without it.

        Returns:
            Whether whole matrices were compared, each weight of them. False where the weights stand in a narrower
            type than the patch was made in: their digests tell nothing there, and only the touched weights were
            compared.

        Raises:
            PatchError: a matrix is absent, has another shape or other values, or the patch is applied already.
        """
        import torch

        self._require(self._touched(view), "before")
        whole = True
        for name, edit in self.edits.items():
            held, made_in = view[name].parameter.detach(), edit.before.dtype
            if not edit.sha256 or torch.promote_types(held.dtype, made_in) != held.dtype:
                whole = False
                continue
            then = held.to(made_in)
            if (held.dtype != made_in and not _same_bits(then.to(held.dtype), held)) or _digest(then) != edit.sha256:
                raise self._misfit(name, held)
        return whole

    def applied_in(self, view: WeightView) -> bool:
        """Whether its new values stand in these weights; False where the old ones do.

        Raises:
            PatchError: neither: it was made for other weights.
        """
        touched = self._touched(view)
        if all(one.holds("before") for one in touched):
            return False
        self._require(touched, "after")
        return True

    @contextlib.contextmanager
    def applied(self, view: WeightView) -> Iterator[None]:
        """Apply for a block; the weights are as before afterwards, whatever happens in it."""
        touched = self._touched(view)
        held = [one.target[one.where] for one in touched]
        try:
            self.apply(view)
            yield
        finally:
            _put(touched, held)

    def _replace(self, view: WeightView, old: _State, new: _State) -> None:
        touched = self._touched(view)
        self._require(touched, old)
        held = [one.target[one.where] for one in touched]
        try:
            _put(touched, [getattr(one, new) for one in touched])
        except BaseException:
            _put(touched, held)
            raise

    def _touched(self, view: WeightView) -> list[_Touched]:
        touched = []
        for name, edit in self.edits.items():
            if name not in view:
                raise self._error(f"the model has no matrix {name}; the patch was made for another model")
            parameter = view[name].parameter
            if tuple(parameter.shape) != edit.shape:
                has, had = ("×".join(map(str, shape)) for shape in (parameter.shape, edit.shape))
                raise self._error(f"{name} is {has} here, was {had}; the patch was made for another model")
            target, where = _handle(parameter, edit.index)
            before, after = edit.before.to(target), edit.after.to(target)
            if not bool(after.isfinite().all()):
                raise self._error(
                    f"its values for {name} are no numbers in {_plain(target.dtype)}; use another --dtype"
                )
            touched.append(_Touched(name, target, where, before, after))
        return touched

    def _require(self, touched: Sequence[_Touched], state: _State) -> None:
        strangers = [one for one in touched if not one.holds(state)]
        if not strangers:
            return
        if all(one.holds("after" if state == "before" else "before") for one in touched):
            raise self._error("is applied already" if state == "before" else "is not applied to these weights")
        raise self._misfit(strangers[0].name, strangers[0].target)

    def _misfit(self, name: str, held: torch.Tensor) -> PatchError:
        made_in = self.edits[name].before.dtype
        mend = "give the subject it was made for"
        if made_in != held.dtype:
            mend += f", or load it in {_plain(made_in)}"
        return self._error(f"{name} has other values than the patch was made for; {mend}")

    def _error(self, problem: str) -> PatchError:
        return PatchError(f"{self.path or 'the patch'}: {problem}")


def make_patch(
    view: WeightView, chosen: Mapping[str, torch.Tensor], operation: Operation, about: Mapping[str, Any],
    *, factor: float = 0.0, base: Mapping[str, torch.Tensor] | None = None, digest: bool = True,
) -> Patch:  # fmt: skip
    """A patch of the weights at flat indices ``chosen`` by matrix name; nothing is changed yet.

    Args:
        view: the weights it is made for.
        chosen: flat indices by matrix name, in any order, no duplicates.
        operation: "zero", "scale" (by ``factor``), or "restore" (to the values of ``base``).
        about: how the weights were found, as JSON values.
        factor: for "scale".
        base: where the new values stand, for "restore" and "remove", and wherever it is given: tensors by matrix
            name, of the same shapes.
        digest: take the digests of the touched matrices; without them the patch is for use here and now.

    Raises:
        UsageError: nothing is chosen, an index is out of range or twice there, or a base is missing.
    """
    import torch

    edits = {}
    for name, index in chosen.items():
        if not index.numel():
            continue
        if name not in view:
            raise UsageError(f"{name}: the model has no such matrix to choose from")
        matrix = view[name]
        index = index.detach().to("cpu", torch.int64).sort().values
        if index[0] < 0 or index[-1] >= matrix.weights or bool((index[1:] == index[:-1]).any()):
            raise UsageError(f"{name}: indices out of range, or the same one twice")
        before = _values(matrix.parameter, index)
        if base is not None or operation in ("restore", "remove"):
            if base is None or name not in base or base[name].shape != matrix.parameter.shape:
                raise UsageError(f"{name}: there are no base values to restore")
            after = _values(base[name], index).to(before.dtype)
        else:
            after = before * factor if operation == "scale" else torch.zeros_like(before)
        shape = tuple(matrix.parameter.shape)
        edits[name] = Edit(
            index, before, after, matrix_digest(matrix) if digest else "", shape, matrix.layer, matrix.role
        )
    if not edits:
        raise UsageError("no weight is chosen; raise the prune fraction, or lower the keep fraction")
    return Patch(edits, operation, dict(about))


def matrix_digest(matrix: Matrix) -> str:
    """SHA-256 over a matrix's shape, type and bytes."""
    return _digest(matrix.parameter.detach())


def _digest(tensor: torch.Tensor) -> str:
    import torch

    flat = tensor.contiguous().view(-1).cpu()
    digest = hashlib.sha256(f"{tuple(tensor.shape)}:{flat.dtype}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _handle(tensor: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """A tensor of the same memory, and what it is indexed by to read or write flat positions."""
    import torch

    tensor, index = tensor.detach(), index.to(tensor.device)
    if tensor.is_contiguous():
        return tensor.view(-1), index
    return tensor, torch.unravel_index(index, tensor.shape)  # a flat form would be a copy


def _values(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    flat, where = _handle(tensor, index)
    return flat[where].cpu()


def _put(touched: Sequence[_Touched], values: Sequence[torch.Tensor]) -> None:
    for one, new in zip(touched, values, strict=True):
        one.target[one.where] = new


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )
