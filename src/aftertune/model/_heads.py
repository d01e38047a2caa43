"""How many heads feed an attention's output matrix.

The matrix's inputs are the heads' values side by side, so a head is as wide as its *values*. That is ``head_dim`` in
most families, ``v_head_dim`` in latent attention (DeepSeek-V2 and its kin, where ``head_dim`` may be the rotary part
alone), ``head_v_dim`` in gated delta nets, and it may differ from layer to layer. So the attention module is asked
first, its configuration second, and where the two do not multiply to the matrix's width the unit is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aftertune.errors import UsageError
from aftertune.model._weights import Matrix

if TYPE_CHECKING:
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
        raise _refusal(matrix, "tells neither how many heads it has nor how wide they are")
    fits = count * width == inputs if width else inputs % count == 0 and (not wide or inputs // count in wide)
    if not fits:
        told = f"{count} heads" + (f" of {width}" if width else "")
        raise _refusal(matrix, f"takes {inputs} inputs, which is not {told}")
    return count


def _refusal(matrix: Matrix, why: str) -> UsageError:
    return UsageError(f"unit 'head': {matrix.name} {why}, so heads cannot be told apart; use --unit neuron")


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
