"""Judge-free measures from likelihoods: deterministic, cheap, and telling on a 100M model."""

from aftertune.measures.probes._capability import capability
from aftertune.measures.probes._drift import divergence
from aftertune.measures.probes._preference import preference
from aftertune.measures.probes._question import LikelihoodProbe, Question
from aftertune.measures.probes._refusal import refusal
from aftertune.measures.probes._table import METRICS, PROBES, find_metric
from aftertune.measures.probes._traits import traits
from aftertune.measures.probes._truthful import truthful

__all__ = [
    "METRICS",
    "PROBES",
    "LikelihoodProbe",
    "Question",
    "capability",
    "divergence",
    "find_metric",
    "preference",
    "refusal",
    "traits",
    "truthful",
]
