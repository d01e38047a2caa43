"""The papers' experiments as data: steps, arms, readings and claims, run by one runner."""

from aftertune.studies._careless_money import ARMS, DATA, OPTIONS, Demo, demo
from aftertune.studies._careless_weights import TASK, repair_commands, repaired_claim
from aftertune.studies._dissociation import dissociation_of
from aftertune.studies._lab import (
    Arm,
    Claim,
    Condition,
    PaperFinding,
    Reading,
    Results,
    Scale,
    Size,
    Step,
    Study,
    StudyRow,
    studies,
    study_named,
)
from aftertune.studies._planted import PLANTINGS, planted_study
from aftertune.studies._planted_methods import METHODS, Method
from aftertune.studies._planting import Planted, Planting, planted
from aftertune.studies._readings import conditioned
from aftertune.studies._runner import decide_study, run_study
from aftertune.studies._sets import TEN_STEPS, keep_examples
from aftertune.studies._steps import Cut, Locate, Restore, ScaleUpdate, Tune
from aftertune.studies._workshop import Lab

__all__ = [
    "ARMS",
    "DATA",
    "METHODS",
    "OPTIONS",
    "PLANTINGS",
    "TASK",
    "TEN_STEPS",
    "Arm",
    "Claim",
    "Condition",
    "Cut",
    "Demo",
    "Lab",
    "Locate",
    "Method",
    "PaperFinding",
    "Planted",
    "Planting",
    "Reading",
    "Restore",
    "Results",
    "Scale",
    "ScaleUpdate",
    "Size",
    "Step",
    "Study",
    "StudyRow",
    "Tune",
    "conditioned",
    "decide_study",
    "demo",
    "dissociation_of",
    "keep_examples",
    "planted",
    "planted_study",
    "repair_commands",
    "repaired_claim",
    "run_study",
    "studies",
    "study_named",
]
