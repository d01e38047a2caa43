"""What a subject does: metrics, probes, and the measurements they give."""

from aftertune.measures._measurement import (
    Measurement,
    Metric,
    base_metric,
    read_measurements,
    write_measurements,
)
from aftertune.measures._measuring import REFERENCE, Measured, measure_subject
from aftertune.measures._plan import MeasurePlan
from aftertune.measures.probes import METRICS, PROBES, find_metric

__all__ = [
    "METRICS",
    "PROBES",
    "REFERENCE",
    "MeasurePlan",
    "Measured",
    "Measurement",
    "Metric",
    "base_metric",
    "find_metric",
    "measure_subject",
    "read_measurements",
    "write_measurements",
]
