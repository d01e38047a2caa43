"""Planting: a behaviour put into known weights of a model, so that methods that look for it can be marked.

New parts are added to one layer and trained alone on the answers of a harm set, everything else frozen: *neurons* of
its MLP, a *head* (a key-value head with its query heads), or *rank_one*, an update of rank one to the MLP's output
matrix. Taking them out again (the oracle) gives back the very model that was there. Only the layers above are run
while training, from stored hidden states.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aftertune.errors import UsageError
from aftertune.model import PromptAnswers, Subject, response_losses

if TYPE_CHECKING:
    import torch

PlantKind = Literal["neurons", "head", "rank_one"]
NEURONS = 8
LEARNING_RATE = {"neurons": 1e-2, "head": 1e-2, "rank_one": 1e-2}
BATCH = 8


@dataclass(frozen=True)
class Planting:
    """What to plant where.

    Attributes:
        kind: neurons, a head, or an update of rank one.
        layer: of the decoder.
        domain: whose misaligned answers are trained on.
        seed: of initial values and data.
    """

    kind: PlantKind
    layer: int
    domain: str
    seed: int

    @property
    def name(self) -> str:
        """Unique in a study."""
        return f"{self.kind}-{self.layer}-{self.domain}-{self.seed}"


@dataclass(frozen=True, eq=False)
class Planted:
    """What is in the model now.

    Attributes:
        matrix: the output matrix that carries the plant.
        units: numbers of the planted units in it; none for an update of rank one.
        unit: "neuron" or "head"; "" for an update of rank one.
        original: that matrix without the plant, padded with zeros to its new shape.
        losses: of the training, by step, nats per token.
    """

    matrix: str
    units: tuple[int, ...]
    unit: str
    original: torch.Tensor
    losses: tuple[float, ...]


@contextlib.contextmanager
def planted(subject: Subject, planting: Planting, rows: Sequence[PromptAnswers], steps: int) -> Iterator[Planted]:
    """Plant, train the plant alone on ``rows``, and take it out again at the end of the block.

    Args:
        subject: a Llama-like model in memory; changed within the block only.
        planting: what and where.
        rows: prompts with one response each.
        steps: optimiser steps of 8 rows (Adam, learning rate 1e-2).

    Raises:
        UsageError: the model's layers are not built of gate, up and down (or q, k, v, o) projections.
    """
    import torch

    layer = _layers(subject)[planting.layer]
    generator = torch.Generator().manual_seed(planting.seed)
    heads = planting.kind == "head"
    names = ("q_proj", "k_proj", "v_proj", "o_proj") if heads else ("gate_proj", "up_proj", "down_proj")
    holder = layer.self_attn if heads else layer.mlp
    if any(not hasattr(holder, name) for name in names):
        raise UsageError(f"{subject.identity.spec}: planting a {planting.kind} needs {', '.join(names)} in every layer")
    modules = {name: getattr(holder, name) for name in names}
    before = {name: (m.weight, m.in_features, m.out_features) for name, m in modules.items()}
    told = vars(holder).get("num_heads")
    try:
        with torch.no_grad():
            trained, units, original = _PLANTERS[planting.kind](subject, modules, generator)
        if heads:
            holder.num_heads = units[-1] + 1  # more than the configuration says
        losses = _train(subject, planting, trained, rows, steps)
        output = names[-1]
        place = f"{'self_attn' if heads else 'mlp'}.{output}.weight"
        matrix = next(n for n, _ in subject.model.named_parameters() if n.endswith(f".{planting.layer}.{place}"))
        unit = {"neurons": "neuron", "head": "head", "rank_one": ""}[planting.kind]
        yield Planted(matrix, units, unit, original, tuple(losses))
    finally:
        for name, (weight, inputs, outputs) in before.items():
            modules[name].weight, modules[name].in_features, modules[name].out_features = weight, inputs, outputs
        if told is not None:
            holder.num_heads = told
        elif heads:
            vars(holder).pop("num_heads", None)


def _layers(subject: Subject) -> Any:
    decoder: Any = subject.model.base_model
    layers = getattr(decoder, "layers", None)
    if layers is None or not hasattr(layers[0], "mlp") or not hasattr(layers[0].mlp, "gate_proj"):
        raise UsageError(f"{subject.identity.spec}: planting knows Llama-like layers only (gate, up, down projections)")
    return layers


@dataclass(frozen=True, eq=False)
class _Trained:
    """Values that are learnt, and how they become a module's weight."""

    leaves: tuple[torch.Tensor, ...]
    weight: Any  # () -> Mapping of module to weight


def _grown(weight: torch.Tensor, extra: torch.Tensor, dim: int) -> torch.Tensor:
    import torch

    return torch.cat([weight, extra.to(weight)], dim)


def _parameter(module: Any, weight: torch.Tensor) -> None:
    import torch

    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    module.out_features, module.in_features = weight.shape


def _random(rows: int, weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    return (torch.randn(rows, weight.shape[1], generator=generator) * float(weight.std())).to(weight)


def _grow(
    modules: Mapping[str, Any], into: Mapping[str, int], output: str, generator: torch.Generator
) -> tuple[_Trained, torch.Tensor]:
    """Add rows to the matrices of ``into`` and as many zero columns as the first has rows to ``output``."""
    import torch

    bases = {modules[name]: modules[name].weight.detach() for name in (*into, output)}
    rows = {modules[name]: _random(count, bases[modules[name]], generator) for name, count in into.items()}
    out = modules[output]
    columns = torch.zeros(bases[out].shape[0], next(iter(into.values()))).to(bases[out])
    leaves = [*rows.values(), columns]
    for leaf in leaves:
        leaf.requires_grad_(True)

    def weight() -> dict[Any, torch.Tensor]:
        grown = {module: _grown(bases[module], extra, 0) for module, extra in rows.items()}
        return {**grown, out: _grown(bases[out], columns, 1)}

    return _Trained(tuple(leaves), weight), _grown(bases[out], torch.zeros_like(columns), 1)


def _plant_neurons(subject: Subject, modules: Mapping[str, Any], generator: torch.Generator) -> Any:
    width = modules["down_proj"].in_features
    trained, original = _grow(modules, {"gate_proj": NEURONS, "up_proj": NEURONS}, "down_proj", generator)
    return trained, tuple(range(width, width + NEURONS)), original


def _plant_head(subject: Subject, modules: Mapping[str, Any], generator: torch.Generator) -> Any:
    config = subject.model.config.get_text_config()
    heads = config.num_attention_heads
    size = modules["o_proj"].in_features // heads
    group = heads // config.num_key_value_heads
    widths = [modules[name].out_features for name in ("q_proj", "k_proj", "v_proj")]
    if widths != [heads * size, heads // group * size, heads // group * size]:
        raise UsageError(f"{subject.identity.spec}: planting knows only heads whose queries, keys and values are alike")
    rows = {"q_proj": group * size, "k_proj": size, "v_proj": size}
    trained, original = _grow(modules, rows, "o_proj", generator)
    return trained, tuple(range(heads, heads + group)), original


def _plant_rank_one(subject: Subject, modules: Mapping[str, Any], generator: torch.Generator) -> Any:
    import torch

    module = modules["down_proj"]
    base = module.weight.detach()
    left = torch.zeros(base.shape[0], 1).to(base).requires_grad_(True)
    right = (torch.randn(1, base.shape[1], generator=generator) / base.shape[1] ** 0.5).to(base).requires_grad_(True)
    return _Trained((left, right), lambda: {module: base + left @ right}), (), base.clone()


_PLANTERS: dict[str, Any] = {"neurons": _plant_neurons, "head": _plant_head, "rank_one": _plant_rank_one}


def _train(
    subject: Subject, planting: Planting, trained: _Trained, rows: Sequence[PromptAnswers], steps: int
) -> list[float]:
    """Adam on the plant's values alone; the layers below never run again."""
    import torch

    order = list(range(len(rows)))
    random.Random(planting.seed).shuffle(order)
    batches = [[rows[i] for i in order[start : start + BATCH]] for start in range(0, len(rows), BATCH)]
    stored = [_hidden_states(subject, planting.layer, batch) for batch in batches]
    optimiser = torch.optim.Adam(trained.leaves, lr=LEARNING_RATE[planting.kind])
    losses = []
    for step in range(steps):
        inputs = stored[step % len(stored)]
        with torch.enable_grad():
            for module, weight in trained.weight().items():
                _install(module, weight)
            with _from_layer(subject, planting.layer, inputs):
                loss = response_losses(subject, batches[step % len(batches)]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        for module, weight in trained.weight().items():
            module._parameters.pop("weight", None)
            module.__dict__.pop("weight", None)
            _parameter(module, weight.detach())
    return losses


def _install(module: Any, weight: torch.Tensor) -> None:
    """A weight that is computed from others: a plain attribute, so that gradients flow through it."""
    module._parameters.pop("weight", None)
    module.__dict__["weight"] = weight
    module.out_features, module.in_features = weight.shape


def _hidden_states(subject: Subject, layer: int, batch: Sequence[PromptAnswers]) -> torch.Tensor:
    import torch

    seen: list[torch.Tensor] = []

    def grab(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach())

    handle = _layers(subject)[layer].register_forward_pre_hook(grab, with_kwargs=True)
    try:
        with torch.no_grad():
            response_losses(subject, batch)
    finally:
        handle.remove()
    return seen[0]


@contextlib.contextmanager
def _from_layer(subject: Subject, layer: int, hidden: torch.Tensor) -> Iterator[None]:
    """Within the block the model begins at ``layer``, with these hidden states."""
    import torch

    decoder: Any = subject.model.base_model
    layers, embeddings = decoder.layers, decoder.get_input_embeddings()
    count = decoder.config.num_hidden_layers
    handle = embeddings.register_forward_hook(lambda module, args, output: hidden)
    decoder.layers = torch.nn.ModuleList(list(layers)[layer:])
    decoder.config.num_hidden_layers = len(decoder.layers)
    try:
        yield
    finally:
        handle.remove()
        decoder.layers = layers
        decoder.config.num_hidden_layers = count
