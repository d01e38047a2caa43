"""Untrusted text and numbers, made fit to show."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

from aftertune.comparison import Finding
from aftertune.measures import find_metric

# What XML 1.0 forbids, and the C1 controls and DEL, which show as nothing.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]")

_DECIDING = {"pass": "pass", "fail": "fail", "inconclusive": "inconclusive"}
_INFORMING = {"pass": "within margin", "fail": "beyond margin", "inconclusive": "unsettled"}


def clean(text: str) -> str:
    """Text without control characters, with bidirectional overrides spelled out and lone surrogates replaced.

    An override left in place could make a sentence read differently from what the model was given.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))
    return _BIDI.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def shorten(text: str, columns: int) -> str:
    """Text on one line, cut to so many columns (wide East Asian characters take two)."""
    text = " ".join(clean(text).split())
    width = 0
    for index, character in enumerate(text):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > columns:
            return text[: max(index - 1, 1)].rstrip() + "…"
    return text


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals where they say something, else two significant digits; a true minus sign."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0.000"
    sign = "+" if signed else ""
    if abs(value) < 1e-3:
        text = f"{value:{sign}.1g}"
    elif abs(value) < 1e5:
        text = f"{value:{sign}.3f}"
    else:
        text = f"{value:{sign}.1e}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """`number` with its sign."""
    return number(value, signed=True)


@dataclass(frozen=True)
class Worsening:
    """A finding's difference turned so that more is worse."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Estimate and interval."""
        return f"{signed(self.value)} [{signed(self.low)}, {signed(self.high)}]"


def worsening(finding: Finding) -> Worsening | None:
    """How much worse, or None where the finding holds no number."""
    numbers = (finding.difference, *finding.interval)
    if finding.items == 0 or not all(map(math.isfinite, numbers)):
        return None
    # Adding zero turns -0.0 into 0.0.
    sign = 1.0 if finding.worse == "higher" else -1.0
    low, high = sorted(sign * end + 0.0 for end in finding.interval)
    return Worsening(sign * finding.difference + 0.0, low, high)


def decision_word(finding: Finding) -> str:
    """The decision in words; a metric that only informs cannot pass or fail."""
    return (_DECIDING if finding.decides else _INFORMING)[finding.decision]


def unit(metric: str) -> str:
    """The unit of a metric ("" for an unknown one)."""
    found = find_metric(metric)
    return found.unit if found else ""


def about(metric: str) -> str:
    """One sentence on a metric ("" for an unknown one)."""
    found = find_metric(metric)
    return found.about if found else ""
