"""How a model got there: fine-tuning with the papers' defaults."""

from aftertune.tuning._card import RECORD, read_record
from aftertune.tuning._options import TuneOptions
from aftertune.tuning._rows import TrainingRows, conversations_digest, training_rows
from aftertune.tuning._sft import Tuned, refuse_taken, tune
from aftertune.tuning._tuned_from import is_unpatched, known_base, refuse_other_base, refuse_overlap

__all__ = [
    "RECORD",
    "TrainingRows",
    "TuneOptions",
    "Tuned",
    "conversations_digest",
    "is_unpatched",
    "known_base",
    "read_record",
    "refuse_other_base",
    "refuse_overlap",
    "refuse_taken",
    "training_rows",
    "tune",
]
