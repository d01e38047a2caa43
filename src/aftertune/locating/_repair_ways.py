"""Which part of an update returns to the base: the ways a repair tries.

The update is ``ΔW = W_tuned - W_base``. To first order, returning one weight to its base changes the preference
margin of the harm set by ``-benefit`` and the narrow task's loss by ``cost``::

    benefit = (w_base - w) · (mean g of the misaligned answers − mean g of their aligned twins)
    cost    = (w_base - w) · mean g of the task's answers

The *ratio*, ``benefit / |Σ benefit| − cost / |Σ cost|``, is zero on average over the whole update: what it likes gives
more safety for the task's loss than scaling the update down does. Single weights are ranked by it, or whole output rows
and matrices by its mean over them. The *delta* score is the benefit alone. *Prune* puts weights to zero by their
first-order part in the preference margin, without a look at the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from aftertune.attribution import GradientSums

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
class Way:
    """One way to undo a part of an update.

    Attributes:
        about: for reports.
        pool: what is chosen as a whole.
        shares: of the weights in view, that are tried.
        operation: what is done to them.
        rival: only shown beside the others, never taken.
    """

    about: str
    pool: Literal["weight", "row", "matrix"]
    shares: tuple[float, ...]
    operation: Literal["restore", "zero"] = "restore"
    rival: bool = False


WAYS: dict[str, Way] = {
    "ratio": Way("weights, benefit against cost", "weight", (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    "ratio by row": Way("rows, benefit against cost", "row", (0.003, 0.01, 0.03, 0.1, 0.2)),
    "ratio by matrix": Way("matrices, benefit against cost", "matrix", (0.03, 0.1, 0.2)),
    "delta": Way("weights, benefit alone", "weight", (1e-3,), rival=True),
    "prune": Way("weights put to zero", "weight", (1e-6, 1e-5), "zero", rival=True),
}
"""Every way a repair tries, by label; a new one is one row."""
