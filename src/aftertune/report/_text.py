"""Untrusted text and numbers, made fit to show."""

from __future__ import annotations

import math
import re
import unicodedata

from aftertune.stats import Finding, Worsening, all_metrics, find_metric, likelihood_metrics, sampled_tasks

# What XML 1.0 forbids, and the C1 controls and DEL, which show as nothing.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PIECES = re.compile(r"[^\s_/.-]*(?:[_/.-]|\s)|[^\s_/.-]+$")
_BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]")

_INFORMING = {"pass": "within tolerance", "fail": "beyond tolerance"}


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
        width += columns_of(character)
        if width > columns:
            return text[: max(index - 1, 1)].rstrip() + "…"
    return text


def columns_of(text: str) -> int:
    """How many columns a text takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def wrap(text: str, columns: int, most: int) -> list[str]:
    """Text on at most so many lines, broken behind spaces and punctuation where it can be; the last may be cut."""
    lines = [""]
    for piece in _PIECES.findall(" ".join(clean(text).split())):
        if lines[-1] and columns_of(lines[-1] + piece.rstrip()) > columns:
            if len(lines) == most:
                lines[-1] = shorten(lines[-1] + piece + "…", columns)
                break
            lines.append("")
        lines[-1] += piece
    return [shorten(line, columns) for line in lines]


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


def compact(value: float, *, signed: bool = False) -> str:
    """A number for a small cell: two decimals, or about three digits."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    size, sign = abs(value), "+" if signed else ""
    if size >= 99_999.5 or size < 0.005:
        mantissa, exponent = f"{value:{sign}.0e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    decimals = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def count(value: int) -> str:
    """A count in about four characters: 1315, 15k, 2.3M."""
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.1f}{name}" if value < 9.95 * unit else f"{min(value // unit, 9999)}{name}"
    return f"{value / 1000:.0f}k" if value >= 10_000 else str(value)


_HYPHEN = re.compile(r"(?<![^\s\[(])-(?=\d)")


def true_minus(text: str) -> str:
    """Text in which a number below 0 has a minus sign, not a hyphen."""
    return _HYPHEN.sub("−", text)


def signed(value: float) -> str:
    """`number` with its sign."""
    return number(value, signed=True)


def worsening(finding: Finding) -> Worsening | None:
    """How much worse, or None where the finding holds no number."""
    numbers = (finding.difference, *finding.interval)
    if finding.items == 0 or not all(map(math.isfinite, numbers)):
        return None
    found = finding.worsening
    # Where either direction may be damage, the way from the base is drawn: right is worse everywhere.
    if finding.worse in ("either", "unknown") and found.value < 0:
        return Worsening(-found.value, -found.high, -found.low)
    return found


def with_interval(worse: Worsening) -> str:
    """Estimate and interval."""
    return f"{signed(worse.value)} [{signed(worse.low)}, {signed(worse.high)}]"


def decision_word(finding: Finding) -> str:
    """The decision in words; a metric that only informs cannot pass or fail."""
    return finding.decision if finding.decides else _INFORMING.get(finding.decision, finding.decision)


def with_unit(text: str, unit: str, between: str = " ") -> str:
    """A number or a name and its unit, if it has one."""
    return f"{text}{between}{unit}" if unit else text


def unit(metric: str) -> str:
    """The unit of a metric ("" for an unknown one)."""
    found = find_metric(metric)
    return found.unit if found else ""


def label(metric: str) -> str:
    """A metric in a few words, with the user's set or the group it is of; an unknown one by its id."""
    found = find_metric(metric)
    if found is None:
        return metric
    head, _, group = metric.partition("/")
    stem = head.partition(":")[2]
    # What several tasks share, such as unreadable answers, names its task.
    task = found.id.partition(".")[0].replace("_", " ")
    others = all_metrics() if sampled_tasks([metric]) else likelihood_metrics()
    shared = sum(other.label == found.label for other in others) > 1
    aside = ", ".join(filter(None, (task if shared else "", stem)))
    name = f"{found.label} ({aside})" if aside else found.label
    return f"{name} in {group.replace('_', ' ')}" if group else name


def about(metric: str) -> str:
    """One sentence on a metric ("" for an unknown one, and where the metric's label says it all)."""
    found = find_metric(metric)
    return found.about if found and found.short else ""
