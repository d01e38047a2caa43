"""What the command line does, as functions: measure, audit, compare."""

from aftertune.verbs._answers import AnswerRuns
from aftertune.verbs._audit import (
    Audit,
    audit,
    audit_page,
    compare_measurings,
    rebuild_report,
    store_audit,
    stored_section,
)
from aftertune.verbs._compare import compare_logs
from aftertune.verbs._left_out import left_out, limited
from aftertune.verbs._measure import MeasureRun, Measuring, measure, measure_choice

__all__ = [
    "AnswerRuns",
    "Audit",
    "MeasureRun",
    "Measuring",
    "audit",
    "audit_page",
    "compare_logs",
    "compare_measurings",
    "left_out",
    "limited",
    "measure",
    "measure_choice",
    "rebuild_report",
    "store_audit",
    "stored_section",
]
