"""Whole output rows of an update: what returning each does to first order, which to return, and returning them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aftertune.attribution import seeded_by_name
from aftertune.errors import SelectionError
from aftertune.locating._repair_ways import Gradients
from aftertune.model import Matrix, WeightView
from aftertune.runs import write_bytes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class RowEffects:
    """First-order rises of three losses when an output row returns to its base, summed over examples.

    Formulas stand in `_repair_ways`.

    Attributes:
        rises: by set ("harm", "twin", "task") and matrix name, fp32 on the CPU, shape (rows,).
        examples: how many were summed, by set.
    """

    rises: Mapping[str, Mapping[str, torch.Tensor]]
    examples: Mapping[str, int]

    def __add__(self, other: RowEffects) -> RowEffects:
        """Of both sets of examples together."""
        rises = {k: {n: t + other.rises[k][n] for n, t in tables.items()} for k, tables in self.rises.items()}
        return RowEffects(rises, {k: count + other.examples[k] for k, count in self.examples.items()})

    def ratios(self, view: WeightView) -> dict[str, torch.Tensor]:
        """Benefit against cost, the mean over each row's weights, by matrix name."""
        mean = {k: {n: t / self.examples[k] for n, t in tables.items()} for k, tables in self.rises.items()}
        benefit = {n: mean["harm"][n] - mean["twin"][n] for n in mean["harm"]}
        benefits, costs = (abs(sum(float(t.sum()) for t in one.values())) or 1.0 for one in (benefit, mean["task"]))
        return {n: (benefit[n] / benefits - mean["task"][n] / costs) / _inputs(view[n]) for n in benefit}

    def write(self, path: Path) -> None:
        """Store them, so that a killed repair need not take the gradients again."""
        from safetensors.torch import save

        tensors = {f"{k}:{n}": t for k, tables in self.rises.items() for n, t in tables.items()}
        write_bytes(path, save(tensors, metadata={k: str(count) for k, count in self.examples.items()}))

    @classmethod
    def read(cls, path: Path) -> RowEffects:
        """Back from `write`."""
        from safetensors import safe_open

        rises: dict[str, dict[str, torch.Tensor]] = {k: {} for k in Gradients._fields}
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (a handle, no mapping)
                kind, _, name = key.partition(":")
                rises[kind][name] = file.get_tensor(key)
            return cls(rises, {k: int(count) for k, count in file.metadata().items()})


def row_effects(view: WeightView, values: Mapping[str, torch.Tensor], sums: Gradients) -> RowEffects:
    """What returning each row does.

    Args:
        view: the tuned model.
        values: the base's, by matrix name.
        sums: what is known of the three sets.
    """
    sets = sums._asdict()
    rises: dict[str, dict[str, torch.Tensor]] = {k: {} for k in sets}
    for name, matrix in view.items():
        for kind, one in sets.items():
            gradient = one.signed[name]
            change = values[name].to(gradient) - matrix.parameter.detach().to(gradient)
            rises[kind][name] = by_row(matrix, change.mul_(gradient)).sum(1).cpu()
    return RowEffects(rises, {kind: one.examples for kind, one in sets.items()})


def by_row(matrix: Matrix, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a matrix's stored shape as (output rows, inputs); of the same memory."""
    if matrix.kind == "conv1d":  # stored (in, out)
        return tensor.T
    return tensor.view(-1, tensor.shape[-1])


def _inputs(matrix: Matrix) -> int:
    return matrix.parameter.shape[0 if matrix.kind == "conv1d" else -1]


def choose_rows(
    view: WeightView, effects: RowEffects, pool: Literal["row", "matrix"], share: float
) -> dict[str, torch.Tensor]:
    """The rows of most ratio, or all rows of the matrices of most, until they hold ``share`` of the weights in view.

    Ties go to the earlier matrix and row; what costs more than it gives is never chosen, so there may be fewer.

    Returns:
        Numbers of rows, sorted, by matrix name.
    """
    import torch

    ratios = effects.ratios(view)
    tables = [r if pool == "row" else r.mean().reshape(1) for r in ratios.values()]
    sizes = [torch.full((len(t),), view[n].weights // len(t)) for n, t in zip(ratios, tables, strict=True)]
    owners = torch.cat([torch.full((len(t),), i) for i, t in enumerate(tables)])
    places = torch.cat([torch.arange(len(t)) for t in tables])
    scores = torch.cat(tables)
    order = scores.sort(descending=True, stable=True).indices
    before = torch.cat(sizes)[order].cumsum(0).roll(1)
    before[0] = 0
    order = order[(before < share * view.weights) & (scores[order] > 0)]
    found = {}
    for number, name in enumerate(ratios):
        rows = places[order[owners[order] == number]].sort().values
        if len(rows):
            found[name] = rows if pool == "row" else torch.arange(len(ratios[name]))
    if not found:
        raise SelectionError("no row gives more safety for its cost than the whole update does; give more examples")
    return found


def random_rows(view: WeightView, rows: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """As many other rows of the same kind of matrix, in any layer: a chosen matrix may leave too few in its own.

    Raises:
        SelectionError: more than half of the rows of a kind are chosen.
    """
    import torch

    found = {}
    for role in dict.fromkeys(view[name].role for name in rows):
        free = {}
        for name, matrix in view.items():
            if matrix.role == role:
                others = torch.ones(matrix.weights // _inputs(matrix), dtype=torch.bool)
                others[rows.get(name, torch.arange(0))] = False
                free[name] = others.nonzero().squeeze(1)
        wanted = sum(len(rows[name]) for name in free if name in rows)
        if sum(map(len, free.values())) < wanted:
            raise SelectionError(f"more than half of the rows of {role} are chosen")
        owners = torch.cat([torch.full((len(places),), i) for i, places in enumerate(free.values())])
        drawn = torch.randperm(len(owners), generator=seeded_by_name(seed, role))[:wanted]
        picked = torch.zeros(len(owners), dtype=torch.bool)
        picked[drawn] = True
        for i, (name, places) in enumerate(free.items()):
            mine = places[picked[owners == i]]
            if len(mine):
                found[name] = mine
    return found


def flat_index(view: WeightView, rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Flat indices of the weights of rows, as a patch takes them."""
    import torch

    found = {}
    for name, chosen in rows.items():
        every = torch.arange(view[name].weights).view(view[name].parameter.shape)
        found[name] = by_row(view[name], every)[chosen].reshape(-1)
    return found


@contextlib.contextmanager
def returned(
    view: WeightView, values: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor]
) -> Iterator[None]:  # fmt: skip
    """Rows at their base values, for a block; the tuned weights return bit for bit, whatever happens."""
    kept: dict[str, torch.Tensor] = {}
    places = {name: chosen.to(view[name].parameter.device) for name, chosen in rows.items()}
    tables = {name: by_row(view[name], view[name].parameter.detach()) for name in rows}
    try:
        for name, table in tables.items():
            kept[name] = table[places[name]]
            table[places[name]] = by_row(view[name], values[name])[rows[name]].to(table)
        yield
    finally:
        for name, before in kept.items():
            tables[name][places[name]] = before
