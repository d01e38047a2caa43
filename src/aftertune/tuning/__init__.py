"""How a model got there: fine-tuning with the papers' defaults."""

from aftertune.tuning._card import RECORD, read_record
from aftertune.tuning._options import TuneOptions
from aftertune.tuning._rows import TrainingRows, conversations_digest, training_rows
from aftertune.tuning._sft import Tuned, refuse_taken, tune

__all__ = [
    "RECORD",
    "TrainingRows",
    "TuneOptions",
    "Tuned",
    "conversations_digest",
    "read_record",
    "refuse_taken",
    "training_rows",
    "tune",
]
