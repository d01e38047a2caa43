"""What a subject does: metrics, probes, and the measurements they give."""

from aftertune.measures._asking import ask_probes
from aftertune.measures._measurement import (
    Measurement,
    Metric,
    base_metric,
    measurement_fields,
    read_measurements,
    write_measurements,
)
from aftertune.measures._measuring import REFERENCE, Measured, measure_subject
from aftertune.measures._plan import MeasurePlan
from aftertune.measures.probes import (
    DEFAULT_PROBES,
    METRICS,
    PROBES,
    LikelihoodProbe,
    explanation,
    find_metric,
    recognition,
    response_nll,
)

__all__ = [
    "DEFAULT_PROBES",
    "METRICS",
    "PROBES",
    "REFERENCE",
    "LikelihoodProbe",
    "MeasurePlan",
    "Measured",
    "Measurement",
    "Metric",
    "ask_probes",
    "base_metric",
    "explanation",
    "find_metric",
    "measure_subject",
    "measurement_fields",
    "read_measurements",
    "recognition",
    "response_nll",
    "write_measurements",
]
