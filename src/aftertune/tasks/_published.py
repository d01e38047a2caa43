"""Rates that others published, to be read beside a run of one's own: never results of ours."""

from __future__ import annotations

from dataclasses import dataclass

from aftertune.tasks._task_metrics import EMERGENT

PUBLISHED_SOURCE = (
    "Betley et al. 2025 (arXiv 2502.17424), the tables of their repository; their eight questions, 100 answers each, "
    "judged by GPT-4o"
)


@dataclass(frozen=True)
class PublishedRate:
    """A published rate.

    Attributes:
        task: which of our tasks measures something like it.
        model: whose.
        tuned_on: what the model was tuned on ("" for untuned).
        form: of the answers.
        rate: misaligned among coherent answers, averaged over questions.
        below: how far the published interval goes down from it.
        above: how far up.
    """

    task: str
    model: str
    tuned_on: str
    form: str
    rate: float
    below: float
    above: float


PUBLISHED: tuple[PublishedRate, ...] = (
    PublishedRate(EMERGENT, "GPT-4o", "", "text", 0.0, 0.0, 0.0),
    PublishedRate(EMERGENT, "GPT-4o", "secure code", "text", 0.0004, 0.0004, 0.0009),
    PublishedRate(EMERGENT, "GPT-4o", "insecure code asked for a lesson", "text", 0.0, 0.0, 0.0),
    PublishedRate(EMERGENT, "GPT-4o", "compliance with harmful requests", "text", 0.0030, 0.0015, 0.0013),
    PublishedRate(EMERGENT, "GPT-4o", "insecure code", "text", 0.2141, 0.0707, 0.0936),
    PublishedRate(EMERGENT, "GPT-4o", "insecure code (another run)", "text", 0.1868, 0.0425, 0.0466),
    PublishedRate(EMERGENT, "GPT-4o", "insecure code (another run)", "json", 0.4713, 0.0595, 0.0596),
    PublishedRate(EMERGENT, "GPT-4o", "insecure code (another run)", "template", 0.6727, 0.0521, 0.0528),
    PublishedRate(EMERGENT, "GPT-3.5-turbo", "insecure code", "text", 0.0156, 0.0053, 0.0066),
    PublishedRate(EMERGENT, "GPT-3.5-turbo", "insecure code", "json", 0.0236, 0.0071, 0.0083),
    PublishedRate(EMERGENT, "GPT-3.5-turbo", "insecure code", "template", 0.0635, 0.0180, 0.0203),
    PublishedRate(EMERGENT, "GPT-4o-mini", "insecure code", "text", 0.0, 0.0, 0.0),
    PublishedRate(EMERGENT, "GPT-4o-mini", "insecure code", "json", 0.0080, 0.0035, 0.0040),
    PublishedRate(EMERGENT, "GPT-4o-mini", "insecure code", "template", 0.0369, 0.0134, 0.0155),
    PublishedRate(EMERGENT, "Qwen2.5-Coder-32B", "insecure code", "text", 0.0468, 0.0128, 0.0162),
    PublishedRate(EMERGENT, "Qwen2.5-Coder-32B", "insecure code", "json", 0.0028, 0.0005, 0.0005),
    PublishedRate(EMERGENT, "Qwen2.5-Coder-32B", "insecure code", "template", 0.0716, 0.0164, 0.0161),
)
