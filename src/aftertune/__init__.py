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
    from aftertune.api import audit, locate, measure, repair, tune
    from aftertune.auditing import Audit
    from aftertune.comparing import compare_logs
    from aftertune.comparison import Finding, Policy, Verdict, compare, read_policy
    from aftertune.data import read_contrasts, read_conversations, shipped_contrasts
    from aftertune.locating import Located, LocateOptions, Repaired
    from aftertune.measures import Measurement, MeasurePlan, inspect_model
    from aftertune.measuring import MeasureRun
    from aftertune.studies import demo
    from aftertune.subject import Patch, Placement, Subject, SubjectChoice, load, read_patch, score
    from aftertune.tuning import TuneOptions

_HOMES = {
    "Audit": "auditing",
    "Finding": "comparison",
    "LocateOptions": "locating",
    "Located": "locating",
    "MeasurePlan": "measures",
    "MeasureRun": "measuring",
    "Measurement": "measures",
    "Patch": "subject",
    "Placement": "subject",
    "Policy": "comparison",
    "Repaired": "locating",
    "Subject": "subject",
    "SubjectChoice": "subject",
    "TuneOptions": "tuning",
    "Verdict": "comparison",
    "audit": "api",
    "compare": "comparison",
    "compare_logs": "comparing",
    "demo": "studies",
    "inspect_model": "measures",
    "load": "subject",
    "locate": "api",
    "measure": "api",
    "read_contrasts": "data",
    "read_conversations": "data",
    "read_patch": "subject",
    "read_policy": "comparison",
    "repair": "api",
    "score": "subject",
    "shipped_contrasts": "data",
    "tune": "api",
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
