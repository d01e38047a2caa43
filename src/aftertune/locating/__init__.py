"""Finding the weights that carry a behaviour, taking them out, and proving it beside controls."""

from aftertune.locating._locate import Located, locate, stored_locate
from aftertune.locating._options import FORMER_SCORES, LocateOptions, ScoreName
from aftertune.locating._proof import Difference, Proof, answers_probe
from aftertune.locating._repair import Repaired, repair, stored_repair
from aftertune.locating._repair_frontier import FrontierPoint
from aftertune.locating._repair_report import rebuild_repair_report, repair_claims, repair_page, repair_sections
from aftertune.locating._report import locate_page, located_claims, located_sections, rebuild_locate_report
from aftertune.locating._search import Point, area_under, removal_at
from aftertune.locating._sets import CalibrationSet, Example, contrast_example, exchange_of, read_calibration, trees_of

__all__ = [
    "FORMER_SCORES",
    "CalibrationSet",
    "Difference",
    "Example",
    "FrontierPoint",
    "LocateOptions",
    "Located",
    "Point",
    "Proof",
    "Repaired",
    "ScoreName",
    "answers_probe",
    "area_under",
    "contrast_example",
    "exchange_of",
    "locate",
    "locate_page",
    "located_claims",
    "located_sections",
    "read_calibration",
    "rebuild_locate_report",
    "rebuild_repair_report",
    "removal_at",
    "repair",
    "repair_claims",
    "repair_page",
    "repair_sections",
    "stored_locate",
    "stored_repair",
    "trees_of",
]
