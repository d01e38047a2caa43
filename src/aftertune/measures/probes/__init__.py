"""Judge-free measures from likelihoods: deterministic, cheap, and telling on a 100M model."""

from aftertune.measures.probes._capability import capability
from aftertune.measures.probes._drift import divergence
from aftertune.measures.probes._explanation import explanation
from aftertune.measures.probes._preference import preference
from aftertune.measures.probes._question import LikelihoodProbe, Question, content_digest
from aftertune.measures.probes._recognition import recognition
from aftertune.measures.probes._refusal import refusal
from aftertune.measures.probes._response import response_nll
from aftertune.measures.probes._table import DEFAULT_PROBES, PROBES
from aftertune.measures.probes._traits import traits
from aftertune.measures.probes._truthful import truthful

__all__ = [
    "DEFAULT_PROBES",
    "PROBES",
    "LikelihoodProbe",
    "Question",
    "capability",
    "content_digest",
    "divergence",
    "explanation",
    "preference",
    "recognition",
    "refusal",
    "response_nll",
    "traits",
    "truthful",
]
