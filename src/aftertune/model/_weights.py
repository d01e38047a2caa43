"""The weights of a model by matrix, wherever they lie: attention heads and leading singular vectors among them.

The matrix's inputs are the heads' values side by side, so a head is as wide as its *values*. That is ``head_dim`` in
most families, ``v_head_dim`` in latent attention (DeepSeek-V2 and its kin, where ``head_dim`` may be the rotary part
alone), ``head_v_dim`` in gated delta nets, and it may differ from layer to layer. So the attention module is asked
first, its configuration second, and where the two do not multiply to the matrix's width the unit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aftertune.errors import SubjectError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn


_COUNTS = (
    "num_v_heads", "num_heads", "num_attention_heads", "num_q_heads", "num_attn_heads", "n_heads", "n_head",
)  # fmt: skip
_WIDTHS = ("head_v_dim", "v_head_dim", "head_dim", "attention_head_size", "head_size", "dim_head")
# Two softmaxes share one value that is twice as wide: neither the blocks of `head_dim` nor their count are heads.
_PAIRED = ("diffllama",)


def is_attention(model: nn.Module, matrix: Matrix) -> bool:
    """Whether a matrix belongs to an attention, by the names of its module and of that module's class."""
    owner = type(_owner(model, matrix)).__name__.lower()
    block = "layer" in owner or "block" in owner  # holds an attention beside other parts
    return any("attn" in name or "attention" in name for name in (matrix.role, "" if block else owner))


def attention_heads(model: nn.Module, matrix: Matrix) -> int:
    """How many heads feed the output matrix of an attention.

    Args:
        model: the causal language model that holds it.
        matrix: the attention's output matrix.

    Raises:
        UsageError: heads and head width do not multiply to the matrix's inputs, or neither is known.
    """
    inputs = int(matrix.parameter.shape[0 if matrix.kind == "conv1d" else -1])
    owner = _owner(model, matrix)
    if not any(_number(owner, name) for name in (*_COUNTS, *_WIDTHS)):
        owner = _sibling(model, matrix) or owner
    configs = _configs(model, owner)
    if any(getattr(config, "model_type", "") in _PAIRED for config in configs):
        raise _refusal(matrix, "pairs its heads")
    count, width = _first((owner,), _COUNTS), _first((owner,), _WIDTHS)
    stated, wide = _first(configs, _COUNTS), {n for c in configs for name in _WIDTHS if (n := _number(c, name))}
    if count is None and width is not None and inputs % width == 0 and stated in (None, inputs // width):
        count = inputs // width
    if count is None:
        count = stated
    if count is None:
        raise _refusal(matrix, "does not say how many heads it has or how wide they are")
    fits = count * width == inputs if width else inputs % count == 0 and (not wide or inputs // count in wide)
    if not fits:
        heads = f"{count} heads" + (f" of {width}" if width else "")
        raise _refusal(matrix, f"takes {inputs} inputs, which is not {heads}")
    return count


def _refusal(matrix: Matrix, why: str) -> UsageError:
    return UsageError(f"unit 'head': {matrix.name} {why}, so its heads cannot be separated; use --unit neuron")


def _owner(model: nn.Module, matrix: Matrix) -> nn.Module:
    return model.get_submodule(matrix.module.rpartition(".")[0])


def _sibling(model: nn.Module, matrix: Matrix) -> nn.Module | None:
    """The module beside the owner that knows its heads: BERT keeps the output matrix in a module of its own."""
    around = model.get_submodule(matrix.module.rpartition(".")[0].rpartition(".")[0])
    return next((m for m in around.modules() if any(_number(m, name) for name in _COUNTS)), None)


def _configs(model: nn.Module, owner: nn.Module) -> tuple[Any, ...]:
    own = getattr(owner, "config", None)
    whole: Any = model.config
    return (own,) if own is not None else (whole.get_text_config(decoder=True),)


def _first(places: Iterable[Any], names: Iterable[str]) -> int | None:
    return next((n for place in places for name in names if (n := _number(place, name))), None)


def _number(place: Any, name: str) -> int | None:
    try:
        value = getattr(place, name, None)
    except Exception:  # a value that differs by layer is refused by the configuration, with an error of its own
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of a model's parameters and saved buffers, sorted by name, one at a time.

    A tensor that is tied to others comes once, under the first of their names.

    Raises:
        SubjectError: a tensor has no values in memory, and none that could be read back.
    """
    import torch

    seen: set[tuple[int, tuple[int, ...]]] = set()
    first: dict[str, str] = {}
    tied = _ties(model)
    state = model.state_dict()

    def values(name: str) -> torch.Tensor:
        tensor: torch.Tensor = state[name]
        return read_back(model, name) if tensor.device.type == "meta" else tensor.detach()

    for name in sorted(state):
        tensor, group = state[name], tied.get(name, name)
        if tensor.device.type != "meta":
            key = (tensor.data_ptr(), tuple(tensor.shape))
            if tensor.numel() and key in seen:
                continue
            seen.add(key)
        earlier = first.setdefault(group, name)
        # What is read back lies elsewhere each time, so that only its name and values show what it is tied to.
        aside = any(state[one].device.type == "meta" for one in (earlier, name))
        if earlier != name and aside and torch.equal(values(earlier).cpu(), values(name).cpu()):
            continue
        yield name, values(name)


def stored_parameters(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of a model's parameters, in its own order; see `stored_tensors`."""
    for name, tensor in model.named_parameters():
        yield name, read_back(model, name) if tensor.device.type == "meta" else tensor.detach()


def read_back(model: nn.Module, name: str) -> torch.Tensor:
    """The values of a tensor that a device map put aside.

    Raises:
        SubjectError: nobody knows them.
    """
    import torch

    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        module = model.get_submodule(".".join(parts[:depth]))
        for values in _weights_maps(getattr(module, "_hf_hook", None)):
            try:
                found = values[".".join(parts[depth:])]
            except (KeyError, IndexError):
                continue
            if isinstance(found, torch.Tensor) and found.device.type != "meta":
                return found.detach()
    raise SubjectError(
        f"{type(model).__name__}: {name} is not in memory and cannot be read back; use a --device that holds the model"
    )


def execution_device(model: nn.Module, module: nn.Module) -> torch.device:
    """Where a module runs: the device of its weight, or the one that its hook brings it to."""
    import torch

    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    if weight.device.type != "meta":
        return weight.device
    places = (getattr(hook, "execution_device", None) for hook in _hooks(getattr(module, "_hf_hook", None)))
    place = next((place for place in places if place is not None), None)
    if place is None:
        raise SubjectError(f"{type(model).__name__}: its embeddings are not in memory; use a --device that holds them")
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def _hooks(hook: Any) -> Iterator[Any]:
    if hook is not None:
        yield hook
        for inner in getattr(hook, "hooks", ()):  # several in a row
            yield from _hooks(inner)


def _weights_maps(hook: Any) -> Iterator[Mapping[str, Any]]:
    for one in _hooks(hook):
        values = getattr(one, "weights_map", None)
        if values is not None:
            yield values


def _ties(model: nn.Module) -> dict[str, str]:
    """Names of tied tensors that were put aside, by the one that stands for them."""
    named: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
        tied[name] = named.setdefault(id(parameter), name)
    declared: Any = getattr(model, "all_tied_weights_keys", None) or {}
    for pair in declared.items() if isinstance(declared, Mapping) else ():
        names = [str(name) for name in pair]
        first = min(tied.get(name, name) for name in names)
        tied.update(dict.fromkeys(names, first))
    return tied


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


LEADING = 64
"""How many directions of a matrix are looked at, strongest first; what an update of low rank adds is among them."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The strongest terms of a matrix's singular value decomposition, in its stored layout.

    Attributes:
        left: left singular vectors, fp32, shape (stored rows, k).
        sizes: singular values, falling, shape (k,).
        right: right singular vectors, shape (k, stored columns).
    """

    left: torch.Tensor
    sizes: torch.Tensor
    right: torch.Tensor

    def part(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of the numbered terms, a matrix of the stored shape, fp32."""
        numbers = numbers.to(self.sizes.device)
        return (self.left[:, numbers] * self.sizes[numbers]) @ self.right[numbers]


def leading_directions(matrix: torch.Tensor, count: int = LEADING) -> Directions:
    """Decompose a matrix.

    Args:
        matrix: of two dimensions, any floating type.
        count: how many terms to keep, at most as many as there are.
    """
    import torch

    # Not torch.svd_lowrank: singular values fall slowly. Of the 64 leading pairs of a SmolLM2 down projection it finds
    # 5 % (|cosine| above 0.99; 36 % with twice the columns and four iterations), with values off by up to 13 %.
    left, sizes, right = torch.linalg.svd(matrix.detach().float(), full_matrices=False)
    return Directions(left[:, :count].clone(), sizes[:count].clone(), right[:count].clone())
