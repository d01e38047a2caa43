"""A seed for every answer, so that a run can be repeated whatever the order in which its answers are drawn."""

from __future__ import annotations

import hashlib

from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.solver import Generate, Solver, TaskState, solver

BELOW = 2**31
"""Hosted providers take no larger seeds."""


@solver
def generate_seeded(seed: int = 0) -> Solver:
    """Draw one answer with a seed of its own; a seed given to Inspect itself (``--seed``) takes part in it.

    A sample whose metadata name ``max_tokens`` is answered in no more than these.

    Args:
        seed: of the task.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        # What a solver passes on wins over Inspect's own seed, which would otherwise be lost without a word.
        given = active_generate_config().seed
        own = answer_seed(seed, state.sample_id, state.epoch, given=given)
        return await generate(state, seed=own, max_tokens=state.metadata.get("max_tokens"))

    return solve


def answer_seed(seed: int, sample: int | str, epoch: int, *, given: int | None = None) -> int:
    """A number from 1 to 2**31 - 1 that depends on all of these and nothing else.

    Args:
        seed: of the task.
        sample: the sample's id.
        epoch: which of its answers.
        given: Inspect's own seed, if any.
    """
    key = f"{'' if given is None else given}:{seed}:{epoch}:{sample}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % (BELOW - 1) + 1
