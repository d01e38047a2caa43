"""What every task of seeded answers shares as a task of Inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from aftertune.judges import grader
from aftertune.tasks._seeds import generate_seeded


def sampled_task(
    name: str,
    rows: Sequence[Sample],
    scorer: Scorer,
    *,
    judged: bool,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    headline: str,
    metadata: Mapping[str, Any],
) -> Task:
    """Sample answers to rows, each with a seed of its own, and score them.

    Args:
        name: of the task and its rows.
        rows: what is asked.
        scorer: of the answers.
        judged: whether it needs a judge, without which nothing is sampled.
        samples: answers to each row.
        max_tokens: per answer.
        temperature: of the subject.
        seed: of sampling.
        headline: the metric that stands for the others.
        metadata: of the task.
    """
    return Task(
        dataset=MemoryDataset(list(rows), name=name),
        setup=need_grader() if judged else None,
        solver=generate_seeded(seed),
        scorer=scorer,
        config=GenerateConfig(max_tokens=max_tokens, temperature=temperature),
        epochs=samples,
        version=1,
        metadata=dict(metadata),
        headline_metric=HeadlineMetric(metric=headline),
    )


@solver
def need_grader() -> Solver:
    """Stop before anything is sampled if there is no judge, or if the subject would judge itself."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        grader()
        return state

    return solve
