"""Which part of an update returns to the base: scores of weights and rows, the choices made by them, and the edits.

The update is ``ΔW = W_tuned - W_base``. To first order, returning one weight to its base changes the preference
margin of the harm set by ``-benefit`` and the narrow task's loss by ``cost``::

    benefit = (w_base - w) · (mean g of the misaligned answers − mean g of their aligned twins)
    cost    = (w_base - w) · mean g of the task's answers

The *ratio*, ``benefit / |Σ benefit| − cost / |Σ cost|``, averages to zero over the whole update: restoring the weights
with the best ratio recovers more safety per task loss than scaling the update down. It ranks single weights, or whole
output rows and matrices by its mean over them. The *delta* score is the benefit alone. *Prune* puts weights to zero by
their first-order part in the preference margin, without the base.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Selection,
    contrastive_score,
    delta_score,
    seeded_by_name,
    select,
    select_units,
)
from aftertune.errors import SelectionError, SubjectError
from aftertune.model import Matrix, WeightView
from aftertune.runs import write_bytes

if TYPE_CHECKING:
    import torch

FORMULA = __doc__


class Gradients(NamedTuple):
    """Gradient sums on the tuned model.

    Attributes:
        harm: of the misaligned answers.
        twin: of their aligned twins.
        task: of the task's answers.
    """

    harm: GradientSums
    twin: GradientSums
    task: GradientSums


@dataclass(frozen=True)
class Variant:
    """One way to undo a part of an update.

    Attributes:
        about: for reports.
        pool: what is chosen as a whole.
        shares: of the weights in view, tried in turn.
        operation: what is done to them.
        rival: only shown beside the others, never chosen.
    """

    about: str
    pool: Literal["weight", "row", "matrix"]
    shares: tuple[float, ...]
    operation: Literal["restore", "zero"] = "restore"
    rival: bool = False


VARIANTS: dict[str, Variant] = {
    "ratio": Variant("weights, benefit against cost", "weight", (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    "ratio by row": Variant("rows, benefit against cost", "row", (0.003, 0.01, 0.03, 0.1, 0.2)),
    "ratio by matrix": Variant("matrices, benefit against cost", "matrix", (0.03, 0.1, 0.2)),
    "delta": Variant("weights, benefit alone", "weight", (1e-3,), rival=True),
    "prune": Variant("weights put to zero", "weight", (1e-6, 1e-5), "zero", rival=True),
}
"""All that a repair tries, by label; a new one is one row."""


def weight_scores(view: WeightView, values: Mapping[str, torch.Tensor], sums: Gradients) -> dict[str, ScoreOf]:
    """The scores "ratio", "delta" and "prune"; arguments as for `row_effects`."""
    misaligned, aligned, cost = (delta_score(one, values) for one in sums)

    def benefit(matrix: Matrix) -> torch.Tensor:
        return misaligned(matrix) - aligned(matrix)

    benefits, costs = (abs(sum(float(one(m).sum()) for m in view.values())) or 1.0 for one in (benefit, cost))
    return {
        "ratio": lambda m: benefit(m) / benefits - cost(m) / costs,
        "delta": benefit,
        "prune": contrastive_score(sums.harm, sums.twin),
    }


def nested_selections(view: WeightView, score: ScoreOf, shares: Sequence[float]) -> dict[float, Selection]:
    """What `select` chooses at each share, from one pass over the model: smaller ones are the top of the largest."""
    import torch

    largest = select(view, score, prune_fraction=max(shares))
    scores = torch.cat([score(view[n]).reshape(-1)[i.to(view[n].parameter.device)].cpu()
                        for n, i in largest.chosen.items()])  # fmt: skip
    order = scores.sort(descending=True, stable=True).indices
    found = {}
    for share in shares:
        taken = torch.zeros(len(scores), dtype=torch.bool)
        taken[order[: math.ceil(share * view.weights)]] = True
        parts = torch.split(taken, [len(index) for index in largest.chosen.values()])
        chosen = {name: index[part] for (name, index), part in zip(largest.chosen.items(), parts, strict=True)}
        found[share] = select_units(view, chosen, "weight")
    return found


@dataclass(frozen=True, eq=False)
class RowEffects:
    """First-order rises of three losses when an output row returns to its base, summed over examples.

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
        raise SelectionError(
            "no row gives more safety for its cost than the whole update does; give more contrasts with --harm"
        )
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


def refuse_other_shape(view: WeightView, values: Mapping[str, torch.Tensor], spec: str) -> None:
    """Refuse a base of another shape, and one that is equal.

    Raises:
        SubjectError: they do not fit, or there is nothing to repair.
    """
    import torch

    for name, matrix in view.items():
        if name not in values or values[name].shape != matrix.parameter.shape:
            raise SubjectError(f"{spec}: its {name} is not of the base's shape; give the right base with --base")
    if set(values) != set(view):
        raise SubjectError(f"{spec}: the base has other matrices; give the right one with --base")
    if all(torch.equal(values[name], matrix.parameter.detach().cpu()) for name, matrix in view.items()):
        raise SubjectError(f"{spec}: equals its base in every matrix; there is nothing to repair")


def refuse_unharmed(base: Mapping[str, float], tuned: Mapping[str, float], spec: str) -> None:
    """Refuse a fine-tune that did not raise the preference margin of the harm set.

    Args:
        base: means by metric on the base.
        tuned: likewise on the fine-tune.
        spec: what to call it.

    Raises:
        SubjectError: there is nothing to repair.
    """
    rise = tuned["preference.margin:harm"] - base["preference.margin:harm"]
    if rise <= 0:
        raise SubjectError(
            f"{spec}: prefers the harm set's misaligned answers no more than its base does (preference margin "
            f"{rise:+.3f} against the base); there is nothing to repair"
        )


@contextlib.contextmanager
def scaled(
    view: WeightView, values: Mapping[str, torch.Tensor], share: float, kept: dict[str, torch.Tensor] | None = None
) -> Iterator[None]:
    """The update scaled down by a share, for a block; the tuned weights return bit for bit, whatever happens.

    Args:
        view: the tuned model.
        values: the base's, by matrix name.
        share: of the update, to take off.
        kept: filled with copies of the tuned weights; given again, it spares the next block the copying.
    """
    import torch

    kept = {} if kept is None else kept
    changed: list[str] = []
    with torch.no_grad():
        try:
            for name, matrix in view.items():
                if name not in kept:
                    kept[name] = matrix.parameter.detach().to("cpu", copy=True)
                changed.append(name)
                matrix.parameter.lerp_(values[name].to(matrix.parameter), share)
            yield
        finally:
            for name in changed:
                view[name].parameter.copy_(kept[name])
