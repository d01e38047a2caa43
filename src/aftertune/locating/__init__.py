"""Finding the weights that carry a behaviour, removing them or returning them to a base, and proving the effect."""

from aftertune.locating._locate import locate, stored_locate
from aftertune.locating._readings import Readings, answers_probe
from aftertune.locating._repair import repair, stored_repair
from aftertune.locating._results import (
    CellCount,
    Control,
    FrontierPoint,
    Located,
    PatchDocument,
    Point,
    Proof,
    Repaired,
    repair_claims,
)
from aftertune.locating._returning import VARIANTS
from aftertune.locating._search import FORMER_SCORES, LocateOptions, ScoreName, area_under, removal_at
from aftertune.locating._sets import CalibrationSet, Example, cases_of, contrast_example, exchange_of, read_calibration

__all__ = [
    "FORMER_SCORES",
    "VARIANTS",
    "CalibrationSet",
    "CellCount",
    "Control",
    "Example",
    "FrontierPoint",
    "LocateOptions",
    "Located",
    "PatchDocument",
    "Point",
    "Proof",
    "Readings",
    "Repaired",
    "ScoreName",
    "answers_probe",
    "area_under",
    "cases_of",
    "contrast_example",
    "exchange_of",
    "locate",
    "read_calibration",
    "removal_at",
    "repair",
    "repair_claims",
    "stored_locate",
    "stored_repair",
]
