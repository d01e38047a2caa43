"""Judge-free measures from likelihoods: deterministic, cheap, and telling on a 100M model."""

from aftertune.probes._asking import REFERENCE, Measured, ask_probes, measure_subject, refuse_other_tokens
from aftertune.probes._capability import capability
from aftertune.probes._drift import divergence
from aftertune.probes._explanation import WHY, explanation
from aftertune.probes._plan import MeasurePlan
from aftertune.probes._preference import preference
from aftertune.probes._probe import (
    LikelihoodProbe,
    ProbeRow,
    Question,
    content_digest,
    default_probes,
    probe_rows,
    retold,
)
from aftertune.probes._recognition import ANSWERS, REQUESTS, Wording, recognition
from aftertune.probes._refusal import refusal
from aftertune.probes._response import response_nll
from aftertune.probes._traits import traits
from aftertune.probes._truthful import truthful

__all__ = [
    "ANSWERS",
    "REFERENCE",
    "REQUESTS",
    "WHY",
    "LikelihoodProbe",
    "MeasurePlan",
    "Measured",
    "ProbeRow",
    "Question",
    "Wording",
    "ask_probes",
    "capability",
    "content_digest",
    "default_probes",
    "divergence",
    "explanation",
    "measure_subject",
    "preference",
    "probe_rows",
    "recognition",
    "refusal",
    "refuse_other_tokens",
    "response_nll",
    "retold",
    "traits",
    "truthful",
]
