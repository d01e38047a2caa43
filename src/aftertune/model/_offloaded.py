"""Every tensor of a model, also those that a device map put aside on the CPU or on disk.

Such a tensor stands in the model as an empty one on the device "meta"; the hook that brings it back for the forward
pass knows where its values are. A tensor whose values nobody knows is an error, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aftertune.errors import SubjectError

if TYPE_CHECKING:
    import torch
    from torch import nn


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
