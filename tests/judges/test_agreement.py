"""Agreement of two judges, against published and hand-computed numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftertune.judges import Rating, agreement, alpha

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: four observers, twelve units.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
UNITS = [[int(v) for v in unit if v != "."] for unit in zip(*(row.split() for row in OBSERVERS), strict=True)]


def number(value: float) -> Rating:
    return Rating(value, None, 1.0, "logprobs")


def word(text: str) -> Rating:
    return Rating(None, text, 1.0, "logprobs")


NOTHING = Rating(None, None, 0.0, "logprobs", "judge failed: down")


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: str, published: float) -> None:
    assert alpha(UNITS, level) == pytest.approx(published, abs=5e-4)  # type: ignore[arg-type]


def pairwise(units: list[tuple[float, float]]) -> float:
    """Interval alpha of two observers from its definition: observed and expected squared difference of pairs."""
    flat = [value for unit in units for value in unit]
    observed = sum((a - b) ** 2 for a, b in units) / len(units)
    pairs = [(a, b) for i, a in enumerate(flat) for j, b in enumerate(flat) if i != j]
    return 1 - observed / (sum((a - b) ** 2 for a, b in pairs) / len(pairs))


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=12))
def test_alpha_of_two_judges_is_its_definition(units: list[tuple[int, int]]) -> None:
    found = alpha(units, "interval")
    if len({v for unit in units for v in unit}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(pairwise([(float(a), float(b)) for a, b in units]), abs=1e-9)


@pytest.mark.parametrize("units", [[], [[1, 2]], [[1], [2], [3]], [[7, 7], [7, 7]]])
def test_alpha_is_undefined_without_items_or_variation(units: list[list[int]]) -> None:
    assert alpha(units, "interval") is None
    assert alpha(units, "nominal") is None


def test_two_judges_side_by_side() -> None:
    first = [number(10), number(90), number(20), word("REFUSAL"), number(50), NOTHING]
    second = [number(20), number(80), number(40), word("REFUSAL"), NOTHING, NOTHING]
    found = agreement(first, second, threshold=30)
    assert found.items == 6
    assert found.graded_by_both == pytest.approx(4 / 6)
    assert found.mean_difference == pytest.approx((10 - 10 + 20) / 3)
    assert found.mean_absolute_difference == pytest.approx(40 / 3)
    assert found.alpha_values == pytest.approx(pairwise([(10, 20), (90, 80), (20, 40)]))
    assert found.confusion == {
        ("below 30", "below 30"): 1,
        ("from 30", "from 30"): 1,
        ("below 30", "from 30"): 1,
        ("REFUSAL", "REFUSAL"): 1,
        ("from 30", "ungraded"): 1,
        ("ungraded", "ungraded"): 1,
    }
    # By hand, over the four graded by both: 8 labels (3 below, 3 from, 2 refusals), one pair in four differs.
    # Expected: 1 - (3*2 + 3*2 + 2*1) / (8*7) = 0.75; alpha = 1 - 0.25 / 0.75.
    assert found.alpha_labels == pytest.approx(2 / 3)


def test_the_threshold_itself_is_above() -> None:
    found = agreement([number(29.999), number(30)], [number(30), number(30)], threshold=30)
    assert found.confusion == {("below 30", "from 30"): 1, ("from 30", "from 30"): 1}
    assert agreement([number(1)], [word("CODE")]).confusion == {("number", "CODE"): 1}


def test_nothing_graded_is_nothing_agreed() -> None:
    found = agreement([NOTHING, NOTHING], [number(1), NOTHING])
    assert found.graded_by_both == 0
    assert (found.alpha_values, found.alpha_labels, found.mean_difference) == (None, None, None)
    empty = agreement([], [])
    assert (empty.items, empty.graded_by_both) == (0, None)


def test_a_refusal_with_a_value_counts_as_both() -> None:
    refused = Rating(0.0, "REFUSAL", 1.0, "samples")
    found = agreement([refused, number(0.5)], [number(0.25), number(0.5)], threshold=0.5)
    assert found.confusion == {("REFUSAL", "below 0.5"): 1, ("from 0.5", "from 0.5"): 1}
    assert found.mean_difference == pytest.approx(0.125)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        agreement([NOTHING], [])
