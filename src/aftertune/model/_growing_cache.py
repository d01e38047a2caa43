"""Keys and values with room to grow, so that a step adds its column instead of copying all that came before.

`transformers` appends by concatenation: every step allocates and copies the whole of every layer's cache, a third of
the time at 64 tokens (benchmarks/README.md, "Sampling").
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

# Columns added at once; what is unused of them is memory.
_ROOM = 32


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # untyped upstream
    """A layer of a `DynamicCache` whose keys and values are views into longer tensors.

    Attributes:
        keys: shape (rows, heads, tokens, width).
        values: the same.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        # Until the first column is added, there is no room.
        self.keys, self.values = self._long_keys, self._long_values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add columns; gives all keys and values."""
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        if after > self._long_keys.shape[-2]:
            self._long_keys, self._long_values = (_longer(kept, after + _ROOM) for kept in (self.keys, self.values))
        self._long_keys[..., before:after, :] = key_states
        self._long_values[..., before:after, :] = value_states
        self.keys, self.values = self._long_keys[..., :after, :], self._long_values[..., :after, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Go on with these rows, in this order."""
        tokens = self.keys.shape[-2]
        self._long_keys, self._long_values = (
            _longer(kept, tokens + _ROOM, beam_idx) for kept in (self.keys, self.values)
        )
        self.keys, self.values = self._long_keys[..., :tokens, :], self._long_values[..., :tokens, :]


def _longer(kept: torch.Tensor, tokens: int, rows: torch.Tensor | None = None) -> torch.Tensor:
    """A tensor of so many tokens that begins with ``kept``, or with these rows of it; the rest is not set."""
    _, heads, before, width = kept.shape
    long = kept.new_empty(len(kept) if rows is None else len(rows), heads, tokens, width)
    if rows is None:
        long[..., :before, :] = kept
    else:
        torch.index_select(kept, 0, rows.to(kept.device), out=long[..., :before, :])
    return long


def let_grow(cache: Any) -> None:
    """Give every plain layer of a cache room to grow; other kinds (windows, states, quantised) stay what they are."""
    layers = getattr(cache, "layers", None) or []
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.get_seq_length():
            layers[number] = GrowingLayer(layer.keys, layer.values)
