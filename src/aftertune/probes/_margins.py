"""Margins: how much likelier per token one answer to a prompt is than another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aftertune.probes._question import Likelihoods


def margin_reader(margin: str, share: str, pmi_margin: str) -> Callable[[Likelihoods], Mapping[str, float]]:
    """Reads the second answer's mean log-likelihood minus the first's, from one tree or two.

    A second tree holds the same answers after a prompt that tells nothing about them. What they differ by there
    is fluency; it is taken off.

    Args:
        margin: metric id of the difference.
        share: metric id of whether it is above zero.
        pmi_margin: metric id of the difference beyond that of the second tree, where there is one.
    """

    def read(likelihoods: Likelihoods) -> Mapping[str, float]:
        (first, second), *alone = likelihoods
        difference = second.mean - first.mean
        values = {margin: difference, share: float(difference > 0)}
        for first_alone, second_alone in alone:
            values[pmi_margin] = difference - (second_alone.mean - first_alone.mean)
        return values

    return read
