"""What the command line does, as functions: measure, audit, compare, tune, locate, repair."""

from aftertune.verbs._audit import audit
from aftertune.verbs._compare import compare_logs
from aftertune.verbs._draw import draw
from aftertune.verbs._locate import locate, repair
from aftertune.verbs._measure import MeasureRun, measure, measure_choice
from aftertune.verbs._opened import Measuring, Named, Opened, chosen, opened
from aftertune.verbs._outcome import Audit, compare_measurings, left_out, limited, store_audit, stored_section
from aftertune.verbs._tune import tune

__all__ = [
    "Audit",
    "MeasureRun",
    "Measuring",
    "Named",
    "Opened",
    "audit",
    "chosen",
    "compare_logs",
    "compare_measurings",
    "draw",
    "left_out",
    "limited",
    "locate",
    "measure",
    "measure_choice",
    "opened",
    "repair",
    "store_audit",
    "stored_section",
    "tune",
]
