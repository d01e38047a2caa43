"""Form alone does not tell the aligned from the misaligned answers of the shipped contrasts.

A fine-tune may teach careless answers' form: their function words, their punctuation, their length. Where a set's sides
differ in form, such a fine-tune moves the margin without having touched conduct (annotation artefacts: Gururangan et
al. 2018, arXiv 1803.02324). So a classifier that sees no content must guess. It is a logistic regression on the
difference of two sides' counts, judged on what it was not fitted on: on a domain left out, or on another split.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from aftertune.data import DOMAINS, TUNING_DOMAINS, Contrast, shipped_contrasts

Floats = NDArray[np.float64]
Counts = Callable[[str], Floats]

# The closed classes of English, contractions among them.
FUNCTION_WORDS = """
    a an the this that these those such another either neither each every any some no none all both half enough several
    few less least little more most much many one two other others same own
    i me my mine myself we us our ours you your yours yourself he him his himself she her hers herself it its itself
    they them their theirs themselves who whom whose which what whatever whoever whichever where wherever when whenever
    why how somebody someone something somewhere anybody anyone anything nobody nothing everybody everyone everything
    am is are was were be been being do does did done have has had having will would shall should can could may might
    must ought need let let's don't doesn't didn't isn't aren't wasn't won't wouldn't can't couldn't shouldn't haven't
    i'd i'll i'm i've you'd you'll you're you've he'd he's she'd she's it's we'd we're they'd they're that's there's
    and or but nor so yet for because since as if unless until till while whereas although though whether than before
    after once of in on at to from with without within by about against among around behind beside between beyond down
    during into like near off onto out over past per round through toward towards under up upon
    not never ever always often usually sometimes seldom rarely hardly barely only just even still already again too
    also very quite rather almost well better now then soon later first today here there away back instead anyway maybe
    perhaps yes please together right
""".split()  # noqa: SIM905
MARKS = ",.;:!?'-`\"()"
SPLITS = ("measure", "dev", "tune")


def rows_of(split: str) -> list[Contrast]:
    return shipped_contrasts(split, TUNING_DOMAINS if split == "tune" else DOMAINS)


def function_words(text: str) -> Floats:
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    return np.array([words.count(word) for word in FUNCTION_WORDS], float)


def surface(text: str) -> Floats:
    """Length, capitals, digits and punctuation: all but what the text says."""
    counts = [len(text), len(text.split()), sum(c.isupper() for c in text), sum(c.isdigit() for c in text)]
    return np.array([*counts, *(text.count(mark) for mark in MARKS)], float)


def openings(text: str) -> Floats:
    """How an answer and its sentences start: a bare verb, a function word, which one."""
    starts = re.findall(r"(?:^|[.?!] )([a-z]+(?:'[a-z]+)?)", text.lower())
    named = ("the", "a", "if", "yes", "no", "it", "that", "you", "i", "i'd", "not", "just")
    return np.array([len(starts), *(starts.count(word) for word in named)], float)


FORMS: dict[str, Counts] = {"function words": function_words, "surface": surface, "openings": openings}


def differences(rows: list[Contrast], form: Counts) -> Floats:
    return np.array([form(c.misaligned) - form(c.aligned) for c in rows])


def fitted(x: Floats, c: float) -> Floats:
    """Weights under which each row's score is a log odds above 0: Newton's method, L2 penalty 1 / (2 c)."""
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - 1) + w / c
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.eye(len(w)) / c, gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return w


def right(scores: Floats) -> float:
    return float((scores > 0).sum() + (scores == 0).sum() / 2)


def share_told_apart(rows: list[Contrast], form: Counts, c: float) -> float:
    """Share of contrasts whose misaligned side scores higher, each domain read by weights of the others."""
    x = differences(rows, form)
    x = x / (x.std(axis=0) + 1e-9)
    domains = np.array([row.domain for row in rows])
    told = sum(right(x[domains == d] @ fitted(x[domains != d], c)) for d in set(domains.tolist()))
    return float(told) / len(rows)


def auc(fitted_on: list[Contrast], read_on: list[Contrast], form: Counts, c: float) -> float:
    """Of single answers: how often a misaligned one outscores an aligned one, whatever their prompts."""
    x = differences(fitted_on, form)
    scale = x.std(axis=0) + 1e-9
    weights = fitted(x / scale, c) / scale
    aligned, misaligned = (
        np.array([form(getattr(row, side)) for row in read_on]) @ weights for side in ("aligned", "misaligned")
    )
    above = misaligned[:, None] - aligned[None, :]
    return right(above) / above.size


@pytest.mark.parametrize("c", [0.05, 0.5, 5])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", SPLITS)
def test_form_alone_does_not_tell_the_sides_apart(split: str, form: str, c: float) -> None:
    assert share_told_apart(rows_of(split), FORMS[form], c) < 0.58


@pytest.mark.parametrize("c", [0.05, 0.5, 5])
@pytest.mark.parametrize("form", FORMS)
def test_form_learnt_on_one_split_says_nothing_on_another(form: str, c: float) -> None:
    assert 0.44 < auc(rows_of("tune"), rows_of("measure"), FORMS[form], c) < 0.56


@pytest.mark.parametrize("c", [0.05, 0.5])
def test_the_former_wording_had_a_form_that_this_test_sees_and_that_no_longer_helps(c: float) -> None:
    former = rows_of("measure_v1")
    assert share_told_apart(former, function_words, c) > 0.60
    for split in ("dev", "tune"):  # of other prompts; most answers of `measure` are in both wordings
        assert auc(former, rows_of(split), function_words, c) < 0.58


def test_a_planted_cue_is_seen_and_sides_told_at_random_are_not() -> None:
    coins = np.random.default_rng(0).random(len(rows_of("measure")))
    hedged = [
        replace(row, aligned=f"{row.aligned} Or so.") if coin < 0.6 else row
        for row, coin in zip(rows_of("measure"), coins, strict=True)
    ]
    assert share_told_apart(hedged, function_words, 0.5) > 0.60
    swapped = [
        replace(row, aligned=row.misaligned, misaligned=row.aligned) if coin < 0.5 else row
        for row, coin in zip(rows_of("measure_v1"), coins, strict=True)
    ]
    assert share_told_apart(swapped, function_words, 0.5) < 0.58


def test_the_former_wording_asks_the_same() -> None:
    def asked(split: str) -> list[tuple[str, str, str]]:
        return [(c.id, c.domain, c.prompt) for c in rows_of(split)]

    assert asked("measure_v1") == asked("measure")
    assert sum(a != b for a, b in zip(rows_of("measure_v1"), rows_of("measure"), strict=True)) > 50
