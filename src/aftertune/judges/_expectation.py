"""The mean of a judge's numbers under the probabilities of its first token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aftertune.judges._reply import NUMBER

MINIMUM_MASS = 0.25


def expected_value(
    probabilities: Mapping[str, float], low: int, high: int, *, minimum_mass: float = MINIMUM_MASS
) -> tuple[float | None, float]:
    """Mean of the whole numbers of a scale, weighted by their probability (Betley et al. 2025, their judge).

    A token counts if, without white space around it, it is a whole number from ``low`` to ``high`` in plain decimal
    digits: "85" and " 85" do, and add up; "850", "-5", "8.5", "05" do not. The sum of their probabilities is the mass;
    the mean is sum(p * v) / sum(p).

    Args:
        probabilities: probability of each token, such as the 20 likeliest; they need not add up to 1. What is not a
            positive finite number is left out.
        low: least number of the scale.
        high: greatest.
        minimum_mass: the least mass for which a mean is given; the source has 0.25.

    Returns:
        The mean, in the scale's unit, or None where the mass is below the minimum or zero; and the mass.
    """
    numbers = [(int(number), p) for number, p in _numbers(probabilities) if low <= int(number) <= high]
    mass = math.fsum(p for _, p in numbers)
    if mass <= 0 or mass < minimum_mass:
        return None, mass
    mean = math.fsum(v * p for v, p in numbers) / mass
    return min(max(mean, float(low)), float(high)), mass


def longest_number(probabilities: Mapping[str, float]) -> int:
    """Digits in the longest token that is a whole number; 0 if there is none."""
    return max((len(number) for number, _ in _numbers(probabilities)), default=0)


def word_masses(probabilities: Mapping[str, float], words: Sequence[str]) -> dict[str, float]:
    """Probability of each word: of tokens that are the word in any case, or begin it in capitals with two letters."""
    masses = dict.fromkeys(words, 0.0)
    for token, p in probabilities.items():
        text = token.strip()
        for word in words:
            begins = len(text) >= 2 and word.startswith(text)
            if (begins or text.casefold() == word.casefold()) and math.isfinite(p) and p > 0:
                masses[word] += p
    return masses


def _numbers(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    stripped = ((token.strip(), p) for token, p in probabilities.items())
    return [(text, p) for text, p in stripped if NUMBER.fullmatch(text) and math.isfinite(p) and p > 0]
