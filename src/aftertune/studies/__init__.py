"""The papers' experiments as arms over one loop."""

from aftertune.studies._careless_money import ARMS, OPTIONS, Arm, Demo, demo, demo_page, rebuild_demo_report
from aftertune.studies._planted import PLANTINGS, planted_study
from aftertune.studies._planted_methods import METHODS, Method
from aftertune.studies._planting import Planted, Planting, planted
from aftertune.studies._table import STUDIES, StudyRow, find_study, study_page

__all__ = [
    "ARMS",
    "METHODS",
    "OPTIONS",
    "PLANTINGS",
    "STUDIES",
    "Arm",
    "Demo",
    "Method",
    "Planted",
    "Planting",
    "StudyRow",
    "demo",
    "demo_page",
    "find_study",
    "planted",
    "planted_study",
    "rebuild_demo_report",
    "study_page",
]
