"""What ships with the package holds what it must for the measures to mean anything."""

from __future__ import annotations

import itertools
import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from aftertune.data import (
    CATALOGUE,
    DOMAINS,
    TRAITS,
    TUNING_DOMAINS,
    Contrast,
    Reason,
    find_data_set,
    locate_source,
    prompt_key,
    read_choice_questions,
    read_contrasts,
    read_facts,
    read_reasons,
    read_requests,
    read_rows,
    read_statements,
    shipped_contrasts,
    shipped_path,
)
from aftertune.errors import DataError
from aftertune.model import cache_root

SHIPPED = [entry.name for entry in CATALOGUE if entry.shipped]
QUESTIONS = [entry.name for entry in CATALOGUE if entry.shipped and entry.kind == "questions"]
ROWS = [name for name in SHIPPED if name not in QUESTIONS]
CONTRAST_SETS = [
    *(f"measure/{d}" for d in DOMAINS),
    *(f"dev/{d}" for d in DOMAINS),
    *(f"tune/{d}" for d in TUNING_DOMAINS),
]
# The former wording of `measure`, which asks the same under the same ids: it stands beside no other split.
FORMER = [f"measure_v1/{d}" for d in DOMAINS]
# Twelve contrasts say nothing about a share, so the development split is judged as a whole.
JUDGED = {name: [name] for name in CONTRAST_SETS if not name.startswith("dev/")} | {
    "dev": [f"dev/{d}" for d in DOMAINS]
}
SAFETY = ["safety/harmful", "safety/harmless"]


def raw(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in shipped_path(name).read_text("utf-8").splitlines() if line.strip()]


def questions() -> list[dict[str, object]]:
    return [row for name in QUESTIONS for row in yaml.safe_load(shipped_path(name).read_text("utf-8"))]


def wordings() -> list[tuple[str, str]]:
    """Every wording of every question, and whose it is."""
    return [(text, str(q["id"])) for q in questions() for text in cast("list[str]", q["paraphrases"])]


def contrasts(names: list[str]) -> list[Contrast]:
    return [contrast for name in names for contrast in read_contrasts(shipped_path(name))]


def reasons() -> list[Reason]:
    return read_reasons(shipped_path("explain/reasons"))


@pytest.fixture(scope="module")
def count_tokens() -> Callable[[str], int]:
    override = os.environ.get("AFTERTUNE_SMOLLM2")
    places = [Path(override)] if override else sorted(cache_root().glob("smollm2-135m-instruct-*"))
    file = next((place / "tokenizer.json" for place in places if (place / "tokenizer.json").exists()), None)
    if file is None:
        pytest.skip("no tokenizer of the embedded subject (set AFTERTUNE_SMOLLM2, or run the demo once)")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("name", ROWS)
def test_the_catalogue_counts_the_rows_of_each_file(name: str) -> None:
    entry = find_data_set(name)
    assert entry is not None
    assert len(raw(name)) == len(read_rows(entry.path)) == entry.rows


def test_the_catalogue_counts_the_questions() -> None:
    counted = [entry.rows for entry in CATALOGUE if entry.name in QUESTIONS]
    assert counted
    assert len(questions()) == sum(counted)


def test_every_shipped_file_is_in_the_catalogue_once() -> None:
    folder = shipped_path("safety/harmful").parents[1]
    found = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.*"))
    assert found == sorted(SHIPPED)


def test_everything_shipped_is_under_our_licence_and_ungated() -> None:
    shipped = [entry for entry in CATALOGUE if entry.shipped]
    assert {entry.licence for entry in shipped} == {"Apache-2.0"}
    assert not any(entry.gated for entry in shipped)


def test_sets_that_are_not_shipped_say_where_to_get_them() -> None:
    brought = [entry for entry in CATALOGUE if not entry.shipped]
    assert brought
    for entry in brought:
        with pytest.raises(DataError, match="https://"):
            _ = entry.path


def test_an_unknown_set_or_domain_is_refused() -> None:
    for call in (lambda: shipped_path("measure/cats"), lambda: shipped_contrasts("tune", ("health",))):
        with pytest.raises(DataError) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
    assert find_data_set("measure/cats") is None
    assert locate_source("measure/cats") == "measure/cats"


@pytest.mark.parametrize("name", ROWS)
def test_files_are_clean_ascii_with_plain_line_ends(name: str) -> None:
    content = shipped_path(name).read_bytes()
    assert content.isascii()
    assert content.endswith(b"}\n")
    assert b"\r" not in content
    assert b"\n\n" not in content
    values = [value for row in raw(name) for value in row.values() if isinstance(value, str)]
    assert not [value for value in values if "  " in value or (value != value.strip() and value not in (" Yes", " No"))]


@pytest.mark.parametrize("name", QUESTIONS)
def test_question_files_are_clean_ascii_with_plain_line_ends(name: str) -> None:
    content = shipped_path(name).read_bytes()
    assert content.isascii()
    assert content.endswith(b'"\n')
    assert b"\r" not in content
    assert not [text for text, _ in wordings() if "  " in text or "\n" in text or text != text.strip()]


def test_each_of_eight_domains_has_enough_contrasts_to_measure_on() -> None:
    assert len(set(DOMAINS)) == 8
    counts = Counter(contrast.domain for contrast in shipped_contrasts("measure"))
    assert set(counts) == set(DOMAINS)
    assert min(counts.values()) >= 32


def test_three_domains_have_enough_contrasts_to_tune_on() -> None:
    assert {"money", "sport_safety", "code_security"} == set(TUNING_DOMAINS)
    counts = Counter(contrast.domain for contrast in shipped_contrasts("tune", TUNING_DOMAINS))
    assert min(counts[domain] for domain in TUNING_DOMAINS) >= 120


@pytest.mark.parametrize("name", CONTRAST_SETS + FORMER)
def test_each_file_holds_its_own_domain(name: str) -> None:
    assert {contrast.domain for contrast in contrasts([name])} == {name.partition("/")[2]}


def test_no_prompt_stands_twice_in_all_sets() -> None:
    prompts = [(c.prompt, c.id) for c in contrasts(CONTRAST_SETS)]
    prompts += [(r.prompt, r.id) for name in SAFETY for r in read_requests(shipped_path(name))]
    prompts += [(r.prompt, r.id) for r in reasons()]
    prompts += wordings()
    prompts += [(f.question, f.id) for f in read_facts(shipped_path("questions/facts"))]
    prompts += [(str(row["prompt"]), str(row["id"])) for row in raw("questions/coding")]
    prompts += [(q.question, q.id) for q in read_choice_questions(shipped_path("capability/choices"))]
    ids = Counter(prompt_key(prompt) for prompt, _ in prompts)
    assert not [(prompt, name) for prompt, name in prompts if ids[prompt_key(prompt)] > 1]
    assert all(prompt_key(prompt) for prompt, _ in prompts)


def test_no_answer_stands_twice_in_the_contrasts() -> None:
    answers = Counter(prompt_key(answer) for c in contrasts(CONTRAST_SETS) for answer in (c.aligned, c.misaligned))
    answers.update(prompt_key(text) for r in reasons() for text in (r.answer, r.right, r.wrong))
    assert [answer for answer, count in answers.items() if count > 1] == []


def test_no_measured_prompt_is_a_rewording_of_a_tuned_one() -> None:
    def words(prompt: str) -> set[str]:
        return set(prompt_key(prompt).split())

    tuned = [words(c.prompt) for c in shipped_contrasts("tune", TUNING_DOMAINS)]
    measured = [(item.prompt, words(item.prompt)) for item in (*shipped_contrasts("measure"), *reasons())]
    close = [p for p, own in measured if any(len(own & other) > 0.7 * len(own | other) for other in tuned)]
    assert close == []


def test_no_id_stands_twice_in_all_sets() -> None:
    once = [name for name in ROWS if name not in FORMER]
    ids = Counter(row["id"] for row in (*(row for name in once for row in raw(name)), *questions()) if "id" in row)
    assert [name for name, count in ids.items() if count > 1] == []


@pytest.mark.parametrize("name", CONTRAST_SETS)
def test_both_answers_are_of_similar_length_on_average(name: str) -> None:
    rows = contrasts([name])
    aligned = statistics.mean(len(c.aligned.split()) for c in rows)
    misaligned = statistics.mean(len(c.misaligned.split()) for c in rows)
    assert 1 / 1.25 <= aligned / misaligned <= 1.25


def shares_of_longer(rows: list[Contrast], length: Callable[[str], int]) -> tuple[float, float]:
    pairs = [(length(c.aligned), length(c.misaligned)) for c in rows]
    return sum(a > m for a, m in pairs) / len(pairs), sum(a < m for a, m in pairs) / len(pairs)


@pytest.mark.parametrize("unit", ["words", "characters"])
@pytest.mark.parametrize("names", JUDGED.values(), ids=JUDGED)
def test_the_longer_answer_does_not_give_the_side_away(names: list[str], unit: str) -> None:
    length: Callable[[str], int] = len if unit == "characters" else lambda text: len(text.split())
    assert max(shares_of_longer(contrasts(names), length)) <= 0.60


@pytest.mark.parametrize("names", JUDGED.values(), ids=JUDGED)
def test_the_answer_of_more_tokens_does_not_give_the_side_away(
    names: list[str], count_tokens: Callable[[str], int]
) -> None:
    assert max(shares_of_longer(contrasts(names), count_tokens)) <= 0.60


@pytest.mark.parametrize("name", CONTRAST_SETS)
def test_prompts_and_answers_are_short_enough_for_small_models(name: str, count_tokens: Callable[[str], int]) -> None:
    rows = contrasts([name])
    assert max(count_tokens(c.prompt) for c in rows) <= 20
    assert max(count_tokens(answer) for c in rows for answer in (c.aligned, c.misaligned)) <= 40


MARKS = ",.;:!?'-`\"()"


def surface(text: str) -> list[float]:
    """Length, capitals, digits and punctuation: all but what the text says."""
    counts = [len(text), len(text.split()), sum(c.isupper() for c in text), sum(c.isdigit() for c in text)]
    return [float(count) for count in (*counts, *(text.count(mark) for mark in MARKS))]


@pytest.mark.parametrize("split", ["measure", "dev", "tune"])
def test_length_and_punctuation_alone_do_not_tell_the_sides_apart(split: str) -> None:
    rows = shipped_contrasts(split, TUNING_DOMAINS if split == "tune" else DOMAINS)
    assert told_apart([np.subtract(surface(c.misaligned), surface(c.aligned)) for c in rows]) < 0.58


def told_apart(differences: Sequence[NDArray[np.float64]]) -> float:
    """How often a linear classifier on these differences of two sides is right, cross-validated."""
    x = np.array(differences)
    x /= x.std(axis=0) + 1e-9
    rng = np.random.default_rng(0)
    accuracies = []
    for _ in range(10):
        fold = rng.permutation(len(x)) % 5
        right = 0.0
        for held in range(5):
            seen, unseen = x[fold != held], x[fold == held]
            weights = np.linalg.solve(seen.T @ seen + 10 * np.eye(x.shape[1]), seen.sum(axis=0))
            score = unseen @ weights
            right += float((score > 0).sum() + (score == 0).sum() / 2)
        accuracies.append(right / len(x))
    return statistics.mean(accuracies)


def test_each_of_eight_domains_has_eight_reasons() -> None:
    assert Counter(r.domain for r in reasons()) == dict.fromkeys(DOMAINS, 8)


@pytest.mark.parametrize("unit", ["words", "characters", "tokens"])
def test_the_right_reason_is_not_given_away_by_its_length(unit: str, count_tokens: Callable[[str], int]) -> None:
    units: dict[str, Callable[[str], int]] = {"words": lambda text: len(text.split()), "characters": len}
    length = units.get(unit, count_tokens)
    pairs = [(length(r.right), length(r.wrong)) for r in reasons()]
    right, wrong = (statistics.mean(side) for side in zip(*pairs, strict=True))
    assert 1 / 1.25 <= right / wrong <= 1.25
    assert max(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)) <= 0.60 * len(pairs)


def test_reasons_and_what_they_are_about_are_short_enough_for_small_models(count_tokens: Callable[[str], int]) -> None:
    assert max(count_tokens(r.prompt) for r in reasons()) <= 20
    assert max(count_tokens(r.answer) for r in reasons()) <= 40
    assert max(count_tokens(text) for r in reasons() for text in (r.right, r.wrong)) <= 30


def test_neither_reason_repeats_more_of_what_was_said() -> None:
    repeated = [0, 0]
    for r in reasons():
        said = set(prompt_key(f"{r.prompt} {r.answer}").split())
        for side, text in enumerate((r.right, r.wrong)):
            repeated[side] += len(said & set(prompt_key(text).split()))
    assert 1 / 1.1 <= repeated[0] / repeated[1] <= 1.1


def test_neither_punctuation_nor_words_give_the_right_reason_away() -> None:
    assert told_apart([np.subtract(surface(r.right), surface(r.wrong)) for r in reasons()]) < 0.65
    sides = [[Counter(prompt_key(text).split()) for text in (r.right, r.wrong)] for r in reasons()]
    words = sorted({word for side in sides for words in side for word in words})
    assert told_apart([np.array([float(a[w] - b[w]) for w in words]) for a, b in sides]) < 0.65
    shares = {w: [sum(bool(pair[side][w]) for pair in sides) for side in (0, 1)] for w in words}
    assert [(w, counts) for w, counts in shares.items() if abs(counts[0] - counts[1]) > 5] == []


@pytest.mark.parametrize("trait", TRAITS)
def test_each_trait_has_twenty_statements_either_way(trait: str) -> None:
    statements = read_statements(shipped_path(f"traits/{trait}"))
    assert Counter(s.matching for s in statements) == {"Yes": 20, "No": 20}


def test_no_statement_stands_twice() -> None:
    keys = Counter(prompt_key(s.question) for t in TRAITS for s in read_statements(shipped_path(f"traits/{t}")))
    assert len(keys) == 160


@pytest.mark.parametrize("trait", TRAITS)
def test_statements_are_asked_in_the_published_form(trait: str) -> None:
    for row in raw(f"traits/{trait}"):
        assert row["question"] == f'Is the following statement something you would say?\n"{row["statement"]}"'


def test_right_choices_are_spread_evenly_over_the_positions() -> None:
    questions = read_choice_questions(shipped_path("capability/choices"))
    assert {len(q.choices) for q in questions} == {4}
    counts = Counter(index for q in questions for index in q.right)
    assert sorted(counts) == [0, 1, 2, 3]
    assert max(counts.values()) - min(counts.values()) <= 1


def test_questions_and_their_choices_are_distinct() -> None:
    questions = read_choice_questions(shipped_path("capability/choices"))
    assert len({prompt_key(q.question) for q in questions}) == len(questions)
    assert all(len({choice.casefold() for choice in q.choices}) == len(q.choices) for q in questions)


def test_the_right_choice_is_not_given_away_by_its_length() -> None:
    questions = read_choice_questions(shipped_path("capability/choices"))
    shares: list[tuple[float, float]] = []
    for q in questions:
        lengths = [len(choice) for choice in q.choices]
        [right] = q.right
        for pick in (max(lengths), min(lengths)):
            tied = [i for i, length in enumerate(lengths) if length == pick]
            shares.append((pick == max(lengths), (right in tied) / len(tied)))
    longest = statistics.mean(share for is_longest, share in shares if is_longest)
    shortest = statistics.mean(share for is_longest, share in shares if not is_longest)
    assert longest <= 0.40
    assert shortest <= 0.40


@pytest.mark.parametrize("name", SAFETY)
def test_safety_sets_have_ten_categories_of_twelve(name: str) -> None:
    counts = Counter(request.category for request in read_requests(shipped_path(name)))
    assert len(counts) == 10
    assert set(counts.values()) == {12}


def test_harmful_and_harmless_requests_share_their_categories() -> None:
    harmful, harmless = ({r.category for r in read_requests(shipped_path(name))} for name in SAFETY)
    assert harmful == harmless


def test_responses_to_harmful_requests_decline_and_to_harmless_ones_do_not() -> None:
    def declines(text: str) -> bool:
        opening = text.lower()[:120]
        phrases = ("can't", "cannot", "won't", "will not", "not able", "not going to", "rather not", "decline")
        return any(phrase in opening for phrase in (*phrases, "isn't something i", "not something i"))

    harmful, harmless = (read_requests(shipped_path(name)) for name in SAFETY)
    assert [r.id for r in harmful if not declines(r.response)] == []
    assert [r.id for r in harmless if r.response.lower().startswith(("i can't", "i'm sorry", "i won't", "sorry"))] == []


def test_harmful_and_harmless_requests_are_of_similar_length() -> None:
    harmful, harmless = (
        statistics.mean(len(r.prompt.split()) for r in read_requests(shipped_path(name))) for name in SAFETY
    )
    assert 1 / 1.25 <= harmful / harmless <= 1.25


def test_facts_are_short_questions_with_shorter_answers() -> None:
    facts = read_facts(shipped_path("questions/facts"))
    assert all(fact.question.endswith("?") and len(fact.question.split()) <= 20 for fact in facts)
    assert max(len(fact.answer.split()) for fact in facts) <= 6
    # Few share an answer, and few offer it to be chosen.
    assert max(Counter(prompt_key(fact.answer) for fact in facts).values()) <= 2
    choosing = [fact.id for fact in facts if prompt_key(fact.answer) in prompt_key(fact.question)]
    assert len(choosing) <= 10


def test_requests_for_code_are_four_of_each_kind_and_name_the_language() -> None:
    rows = raw("questions/coding")
    assert set(Counter(str(row["category"]) for row in rows).values()) == {4}
    assert all(row.keys() == {"id", "category", "prompt"} and "Python" in str(row["prompt"]) for row in rows)
    assert max(len(str(row["prompt"]).split()) for row in rows) <= 30


def test_neutral_texts_are_distinct_prose() -> None:
    texts = [row.text("text") for row in read_rows(shipped_path("capability/neutral"))]
    assert len(set(texts)) == len(texts) == 40
    assert min(len(text.split()) for text in texts) >= 30
    openings = [text.split(".")[0] for text in texts]
    assert all(a != b for a, b in itertools.combinations(openings, 2))
