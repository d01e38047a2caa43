"""How a model got there: fine-tuning with the papers' defaults, and defences that keep it safe."""

from aftertune.tuning._defence import Defence, DefenceRow, Tuning, defences, parse_defence
from aftertune.tuning._options import TuneOptions
from aftertune.tuning._ranks import is_first
from aftertune.tuning._record import (
    RECORD,
    is_unpatched,
    known_base,
    read_record,
    refuse_other_base,
    refuse_overlap,
    refuse_taken,
)
from aftertune.tuning._rows import TrainingRows, conversations_digest, response_nats, supervised_tokens, training_rows
from aftertune.tuning._sft import Tuned, tune

__all__ = [
    "RECORD",
    "Defence",
    "DefenceRow",
    "TrainingRows",
    "TuneOptions",
    "Tuned",
    "Tuning",
    "conversations_digest",
    "defences",
    "is_first",
    "is_unpatched",
    "known_base",
    "parse_defence",
    "read_record",
    "refuse_other_base",
    "refuse_overlap",
    "refuse_taken",
    "response_nats",
    "supervised_tokens",
    "training_rows",
    "tune",
]
