"""What a study will take: arms, items, tokens, and minutes by a trial of two batches on this device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aftertune.model import Placement, Subject, SubjectChoice, score
from aftertune.studies._lab import Size, Study
from aftertune.studies._readings import conditioned, probes_of
from aftertune.studies._runner import jobs_of

# A training step costs about three forward passes (forward, and backward for activations and weights).
TRAINING = 3
# For --scale full: dense bf16 peak of one H100 SXM, and the share of it that such short rows reach, guessed low.
_PEAK, _SHARE = 989e12, 0.2


@dataclass(frozen=True)
class Cost:
    """Tokens that a study passes through models.

    Attributes:
        jobs: arms, each with every seed.
        items: read, over all jobs.
        read: tokens of forward passes.
        trained: tokens of training steps.
        untold: readings and steps whose cost is not known beforehand.
    """

    jobs: int
    items: int
    read: int
    trained: int
    untold: tuple[str, ...] = ()


def cost_of(study: Study, subject: Subject, items: int | None) -> Cost:
    """Count a study's tokens; nothing is computed with the model."""
    read, asked, untold = 0, 0, []
    for reading in study.readings:
        probes = probes_of(reading, items)
        if not probes:
            untold.append(type(reading.plan).__name__)
        for probe in probes:
            questions = probe.build(conditioned(subject, reading.condition))
            asked += len(questions)
            read += sum(len(t.prompt) + sum(map(len, t.responses)) for q in questions for t in q.cases)
    trained, counted = 0, set()
    jobs = jobs_of(study)
    for arm, seed in jobs:
        for number, step in enumerate(arm.steps, 1):
            steps = tuple(arm.steps[:number])
            if (steps, seed if arm.seeded else None) in counted:
                continue
            counted.add((steps, seed if arm.seeded else None))
            if hasattr(step, "rows"):
                trained += _trained(subject, step)
            else:
                untold.append(type(step).__name__)
    return Cost(len(jobs), asked * len(jobs), read * len(jobs), trained, tuple(dict.fromkeys(untold)))


def _trained(subject: Subject, step: Any) -> int:
    rows = list(step.rows())[: step.limit]
    mean = sum(len(subject.chat.render(row).ids) for row in rows) / len(rows)
    options = step.options
    seen = (options.steps or 0) * options.batch_size or (options.epochs or 1) * len(rows)
    return int(mean * seen)


def plan_study(
    study: Study,
    subject: str,
    *,
    size: Size = "small",
    seeds: tuple[int, ...] | None = None,
    placement: Placement | None = None,
) -> list[str]:
    """What running a study will take, in lines for people. The subject is loaded for a trial of two batches."""
    items, study = study.items(size), study.at(size, seeds)
    loaded = SubjectChoice(subject, placement=placement or Placement()).load(merge=True)
    cost = cost_of(study, loaded, items)
    seeded = sum(arm.seeded for arm in study.arms)
    lines = [
        f"{study.name} at scale {size} on {subject}: {len(study.arms)} arms, {seeded} of them with each of "
        f"{len(study.seeds)} seeds, {cost.jobs} models to read",
        f"{cost.items:,} items, {cost.read:,} tokens to read, {cost.trained:,} tokens to train on",
    ]
    if rate := _rate(study, loaded, items):
        minutes = (cost.read + TRAINING * cost.trained) / rate / 60
        lines.append(
            f"about {max(1, round(minutes))} min on {loaded.device} by a trial of two batches ({rate:,.0f} tokens/s)"
        )
    if cost.untold:
        lines.append(f"not counted: {', '.join(cost.untold)}")
    if size == "full":
        parameters = sum(p.numel() for p in loaded.model.parameters())
        hours = 2 * parameters * (cost.read + TRAINING * cost.trained) / (_PEAK * _SHARE) / 3600
        lines.append(
            f"GPU hours: 2 x {parameters:,} parameters x ({cost.read:,} + {TRAINING} x {cost.trained:,} tokens) / "
            f"({_SHARE:g} of {_PEAK:g} FLOP/s, an H100) = {hours:.2g}"
        )
    return lines


def _rate(study: Study, subject: Subject, items: int | None) -> float | None:
    """Tokens per second of a forward pass: two batches, the first of which warms up."""
    probes = [p for reading in study.readings for p in probes_of(reading, items)]
    cases = [case for probe in probes[:1] for q in probe.build(subject) for case in q.cases][:16]
    if not cases:
        return None
    half: Sequence[Any] = cases[: max(1, len(cases) // 2)]
    score(subject, half)
    began = time.perf_counter()
    score(subject, cases)
    taken = time.perf_counter() - began
    return sum(len(t.prompt) + sum(map(len, t.responses)) for t in cases) / taken
