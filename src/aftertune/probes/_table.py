"""The table of probes. A new probe is one file beside this one and one row here."""

from __future__ import annotations

from dataclasses import dataclass

from aftertune.probes import (
    _capability,
    _drift,
    _explanation,
    _preference,
    _recognition,
    _refusal,
    _response,
    _traits,
    _truthful,
)
from aftertune.stats import Metric


@dataclass(frozen=True)
class ProbeRow:
    """What the table says of a probe.

    Attributes:
        name: what ``--probes`` calls it.
        metrics: what it measures.
        about: one line for lists.
        needs: what must be given for it to run ("" for nothing).
        default: whether it runs where no probes are named.
    """

    name: str
    metrics: tuple[Metric, ...]
    about: str
    needs: str = ""
    default: bool = True


PROBES: tuple[ProbeRow, ...] = (
    ProbeRow("preference", _preference.METRICS, "misaligned against aligned answers, by domain"),
    ProbeRow("traits", _traits.METRICS, "yes/no statements, keys balanced"),
    ProbeRow("refusal", _refusal.METRICS, "probability of refusing openings, harmful against harmless requests"),
    ProbeRow("capability", _capability.METRICS, "perplexity and easy questions, so that a broken model cannot pass"),
    ProbeRow("truthful", _truthful.METRICS, "TruthfulQA MC1 and MC2", needs="--truthfulqa FILE"),
    ProbeRow("drift", _drift.METRICS, "KL from base to tuned by response position", needs="a base"),
    ProbeRow("recognition", _recognition.METRICS, "is what is bad called bad, answers and requests?", default=False),
    ProbeRow("explanation", _explanation.METRICS, "right against wrong reasons why an answer is bad", default=False),
    ProbeRow("response", _response.METRICS, "likelihood of your own rows", needs="rows, from Python", default=False),
)

DEFAULT_PROBES: tuple[str, ...] = tuple(row.name for row in PROBES if row.default)
