"""The mean of a judge's numbers, against a second way to it: number by number over the scale."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftertune.judges import expected_value
from aftertune.judges._rating import word_masses

TOKENS = st.one_of(
    st.integers(-5, 130).map(str),
    st.sampled_from(
        [
            "85",
            " 85",
            "85 ",
            "\n85",
            "\t0",
            "100",
            "101",
            "850",
            "-5",
            "8.5",
            "05",
            "00",
            "+5",
            "1_0",
            "1e1",
            "٣",
            "８５",
            "",
            " ",
            "REF",
            "CODE",
            "8 5",
            "85%",
            "9" * 5000,
        ]
    ),
)
PROBABILITIES = st.dictionaries(TOKENS, st.floats(0, 1), max_size=20)


def number_by_number(
    probabilities: Mapping[str, float], low: int, high: int, least: float
) -> tuple[float | None, float]:
    """For every number of the scale, all that is spelled like it."""
    total = weighted = 0.0
    for number in range(low, high + 1):
        for token in probabilities:
            if token.strip() == f"{number}":
                total = total + probabilities[token]
                weighted = weighted + probabilities[token] * number
    if total < least or total == 0:
        return None, total
    return weighted / total, total


@given(PROBABILITIES, st.sampled_from([(0, 100), (1, 5), (0, 9), (3, 3)]), st.sampled_from([0.0, 0.25, 0.9]))
def test_it_is_what_going_number_by_number_gives(
    probabilities: dict[str, float], scale: tuple[int, int], least: float
) -> None:
    low, high = scale
    value, mass = expected_value(probabilities, low, high, minimum_mass=least)
    plain, total = number_by_number(probabilities, low, high, least)
    assert mass == pytest.approx(total, abs=1e-12)
    if abs(total - least) > 1e-9:  # at the very edge the order of summation decides
        assert (value is None) == (plain is None)
    if value is not None and plain is not None and total > 1e-6:
        assert value == pytest.approx(plain, abs=1e-9)
        assert low <= value <= high


@pytest.mark.parametrize(
    ("probabilities", "value", "mass"),
    [
        ({"85": 0.5, " 85": 0.25, "REF": 0.25}, 85.0, 0.75),
        ({"0": 0.5, "100": 0.5}, 50.0, 1.0),
        ({"10": 0.2, "20": 0.05, "CODE": 0.7}, 12.0, 0.25),
        ({"10": 0.24, "CODE": 0.7}, None, 0.24),
        ({"850": 0.9, "-5": 0.05, "8.5": 0.05}, None, 0.0),
        ({}, None, 0.0),
        ({"50": float("nan"), "60": 0.5, "70": float("inf"), "80": -0.5}, 60.0, 0.5),
    ],
)
def test_published_rule(probabilities: dict[str, float], value: float | None, mass: float) -> None:
    found, total = expected_value(probabilities, 0, 100)
    assert total == pytest.approx(mass)
    assert found == (None if value is None else pytest.approx(value))


def test_no_mass_is_no_value_whatever_the_minimum() -> None:
    assert expected_value({"CODE": 1.0}, 0, 100, minimum_mass=0.0) == (None, 0.0)


def test_words_are_known_whole_in_any_case_and_by_two_capitals() -> None:
    tokens = {"REF": 0.1, " refusal": 0.2, "Re": 0.05, "R": 0.05, "CODE": 0.3, "CODEX": 0.1, "Code": 0.1, "": 0.1}
    assert word_masses(tokens, ("REFUSAL", "CODE")) == pytest.approx({"REFUSAL": 0.3, "CODE": 0.4})
