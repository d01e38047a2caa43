"""The editable matrices of a model, by checkpoint name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.errors import SubjectError
from aftertune.model._directions import Directions, leading_directions

if TYPE_CHECKING:
    import torch
    from torch import nn

MatrixKind = Literal["linear", "conv1d", "experts"]
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.(.+)$")


@dataclass(frozen=True, eq=False)
class Matrix:
    """One editable matrix.

    Attributes:
        name: the parameter's name, as in the checkpoint.
        parameter: the tensor itself; shape (out, in), for "conv1d" (in, out), for "experts" (experts, …, …).
        kind: how it is stored.
        layer: number of its decoder layer, None outside the layers.
        role: what it is within its layer, such as "mlp.down_proj".
        module: name of the module that holds it.
    """

    name: str
    parameter: torch.nn.Parameter
    kind: MatrixKind
    layer: int | None
    role: str
    module: str

    @property
    def weights(self) -> int:
        """How many scalars."""
        return self.parameter.numel()


class WeightView(Mapping[str, Matrix]):
    """The matrices of a model that may be scored and edited: every linear map inside the decoder layers.

    `nn.Linear`, GPT-2's `Conv1D` (stored transposed) and fused three-dimensional experts. Norms, biases,
    embeddings and the output head are left out; a tensor shared by several modules counts once, under the first
    of its names.

    Args:
        model: a causal language model in memory, adapters merged.

    Raises:
        SubjectError: the weights are packed (quantised), an adapter sits on them unmerged, some are not in
            memory, or there is nothing to edit.
    """

    def __init__(self, model: nn.Module) -> None:
        _refuse_unfit(model)
        self.model = model
        self._matrices = {matrix.name: matrix for matrix in _matrices(model)}
        if not self._matrices:
            raise SubjectError(f"{type(model).__name__}: has no linear map inside decoder layers that could be edited")
        self.parameters = sum(p.numel() for p in model.parameters())
        self._directions: dict[str, Directions] = {}

    def directions(self, name: str) -> Directions:
        """The leading singular directions of a matrix, as it stood when they were first asked for here.

        They take 64 times its rows and columns of memory, and a decomposition the first time.
        """
        if name not in self._directions:
            self._directions[name] = leading_directions(self[name].parameter)
        return self._directions[name]

    def __getitem__(self, name: str) -> Matrix:
        return self._matrices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)

    @property
    def weights(self) -> int:
        """Scalars in view."""
        return sum(matrix.weights for matrix in self.values())

    @property
    def share(self) -> float:
        """Share of the model's parameters in view."""
        return self.weights / self.parameters


def _refuse_unfit(model: nn.Module) -> None:
    if hasattr(model, "peft_config"):
        raise SubjectError("an adapter sits on the model unmerged; load it with merge")
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise SubjectError(f"{name}: is not in memory (offloaded); use a device that holds the model")
        if not parameter.is_floating_point():
            raise SubjectError(f"{name}: packed quantised weights cannot be edited; use the unquantised checkpoint")
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise SubjectError("packed quantised weights cannot be edited; use the unquantised checkpoint")


def _matrices(model: nn.Module) -> Iterator[Matrix]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    outside = {id(module.weight) for module in _embeddings(model) if module is not None}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        kind: MatrixKind = "experts"
        if isinstance(module, nn.Linear):
            kind = "linear"
        elif isinstance(module, Conv1D):
            kind = "conv1d"
        elif "expert" not in module_name:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}"
            where = _LAYER.search(full)
            if id(parameter) in seen or id(parameter) in outside or where is None:
                continue
            if parameter.ndim != (3 if kind == "experts" else 2):
                continue
            seen.add(id(parameter))
            yield Matrix(full, parameter, kind, int(where[1]), where[2].removesuffix(".weight"), module_name)


def _embeddings(model: nn.Module) -> tuple[nn.Module | None, ...]:
    inputs = getattr(model, "get_input_embeddings", lambda: None)()
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    return inputs, outputs
