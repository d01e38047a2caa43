"""Did fine-tuning break my model? Measure, compare and gate fine-tuned language models.

    >>> import aftertune
    >>> outcome = aftertune.audit("my-adapter", base="owner/model")   # doctest: +SKIP
    >>> outcome.verdict.decision                                      # doctest: +SKIP
    'pass'

Everything heavy is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftertune.data import read_contrasts, read_conversations, shipped_contrasts
    from aftertune.inspect_bridge import inspect_model
    from aftertune.locating import Located, LocateOptions, Repaired
    from aftertune.model import Patch, Placement, Subject, SubjectChoice, load, read_patch, score
    from aftertune.probes import MeasurePlan
    from aftertune.stats import Finding, Measurement, Policy, Verdict, compare, read_policy
    from aftertune.studies import demo
    from aftertune.tuning import TuneOptions
    from aftertune.verbs import Audit, MeasureRun, audit, compare_logs, locate, measure, repair, tune

_HOMES = {
    "Audit": "verbs",
    "Finding": "stats",
    "LocateOptions": "locating",
    "Located": "locating",
    "MeasurePlan": "probes",
    "MeasureRun": "verbs",
    "Measurement": "stats",
    "Patch": "model",
    "Placement": "model",
    "Policy": "stats",
    "Repaired": "locating",
    "Subject": "model",
    "SubjectChoice": "model",
    "TuneOptions": "tuning",
    "Verdict": "stats",
    "audit": "verbs",
    "compare": "stats",
    "compare_logs": "verbs",
    "demo": "studies",
    "inspect_model": "inspect_bridge",
    "load": "model",
    "locate": "verbs",
    "measure": "verbs",
    "read_contrasts": "data",
    "read_conversations": "data",
    "read_patch": "model",
    "read_policy": "stats",
    "repair": "verbs",
    "score": "model",
    "shipped_contrasts": "data",
    "tune": "verbs",
}

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "Finding",
    "LocateOptions",
    "Located",
    "MeasurePlan",
    "MeasureRun",
    "Measurement",
    "Patch",
    "Placement",
    "Policy",
    "Repaired",
    "Subject",
    "SubjectChoice",
    "TuneOptions",
    "Verdict",
    "audit",
    "compare",
    "compare_logs",
    "demo",
    "inspect_model",
    "load",
    "locate",
    "measure",
    "read_contrasts",
    "read_conversations",
    "read_patch",
    "read_policy",
    "repair",
    "score",
    "shipped_contrasts",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"aftertune.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'aftertune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
