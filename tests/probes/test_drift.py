"""Drift is the Kullback-Leibler divergence, or a lower bound of it where only the likeliest tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.data import Request, read_requests, shipped_path
from aftertune.errors import SubjectError, UsageError
from aftertune.model import Subject
from aftertune.probes import REFERENCE, Measured, MeasurePlan, divergence, measure_subject
from aftertune.probes._drift import KEPT, band, drift_content
from aftertune.stats import Measurement

Made = Callable[..., Subject]
Drift = Callable[[Subject, Subject], list[Measurement]]
Probing = Callable[..., MeasurePlan]

REQUESTS = (
    Request("r-1", "misc", "How do I make tea?", "Boil water, pour it over the leaves and wait."),
    Request("r-2", "misc", "What should I do?", "Ask someone who knows about it before you decide. " * 4),
    Request("r-3", "misc", "Ü?", "é."),
)


@pytest.fixture
def drift(probing: Probing, tmp_path_factory: pytest.TempPathFactory) -> Drift:
    """Drift of a subject from a base, through a stored reference."""

    def measure(base: Subject, tuned: Subject) -> list[Measurement]:
        plan, first, second = probing(drift=REQUESTS), *(tmp_path_factory.mktemp("drift") for _ in range(2))
        assert measure_subject(base, plan, first, keep_reference=True) == Measured((), 0)
        return list(measure_subject(tuned, plan, second, drift_from=first / REFERENCE).measurements)

    return measure


def moved(make: Made, architecture: str, amount: float, **changes: Any) -> Subject:
    """The same tiny model with noise on its weights: a fine-tune of a kind."""
    subject = make(architecture, **changes)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.add_(amount * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator))
    return subject


def distributions(subject: Subject, request: Request) -> np.ndarray:
    """Log-probabilities of shape (answer tokens, vocabulary), by one plain pass over the rendered exchange."""
    turns = [{"role": "user", "content": request.prompt}]
    render = subject.tokenizer.apply_chat_template
    head = str(render(turns, tokenize=False, add_generation_prompt=True))
    whole = str(render([*turns, {"role": "assistant", "content": request.response}], tokenize=False)).rstrip()
    ids = subject.tokenizer.encode(whole, add_special_tokens=False)
    start = len(subject.tokenizer.encode(head, add_special_tokens=False))
    with torch.no_grad():
        logits = subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, start - 1 : -1]
    found: np.ndarray = torch.log_softmax(logits.double(), -1).numpy()
    return found


def full_divergences(base: Subject, tuned: Subject) -> Iterator[tuple[str, float]]:
    """(item, KL of base from tuned over the whole vocabulary) of every answer token."""
    for request in REQUESTS:
        p, q = distributions(base, request), distributions(tuned, request)
        for at, value in enumerate((np.exp(p) * (p - q)).sum(-1), 1):
            yield f"{request.id}@{at}", float(value)


# --- against the full divergence ------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_with_every_token_kept_it_is_the_full_divergence(architecture: str, make: Made, drift: Drift) -> None:
    base, tuned = make(architecture), moved(make, architecture, 0.3)
    assert base.vocabulary <= KEPT
    found = drift(base, tuned)
    expected = dict(full_divergences(base, tuned))
    assert {m.item: m.value for m in found} == pytest.approx(expected, abs=1e-4)
    assert max(expected.values()) > 0.1
    # It is the divergence of base from tuned; the other way round gives other numbers.
    reverse = dict(full_divergences(tuned, base))
    assert max(abs(reverse[item] - expected[item]) for item in expected) > 1e-2


def test_with_a_larger_vocabulary_it_is_a_lower_bound(make: Made, drift: Drift) -> None:
    base, tuned = make("llama", vocab_size=3000), moved(make, "llama", 0.3, vocab_size=3000)
    found = {m.item: m.value for m in drift(base, tuned)}
    expected = dict(full_divergences(base, tuned))
    assert found.keys() == expected.keys()
    for item, value in found.items():
        assert 0 < value < expected[item]
    for request in REQUESTS:
        p, q = np.exp(distributions(base, request)), np.exp(distributions(tuned, request))
        order = np.argsort(-p, -1)[:, :KEPT]
        kept_p, kept_q = (np.take_along_axis(x, order, -1) for x in (p, q))
        kept_p, kept_q = (np.append(k, 1 - k.sum(-1, keepdims=True), -1) for k in (kept_p, kept_q))
        merged = (kept_p * np.log(kept_p / kept_q)).sum(-1)
        assert [found[f"{request.id}@{at + 1}"] for at in range(len(merged))] == pytest.approx(list(merged), abs=1e-4)


@pytest.mark.parametrize("vocabulary", [320, 3000])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_has_not_drifted_from_itself(architecture: str, vocabulary: int, make: Made, drift: Drift) -> None:
    base, same = (make(architecture, vocab_size=vocabulary) for _ in range(2))
    same.max_batch_tokens = 1  # one case at a time: other rounding
    values = [m.value for m in drift(base, same)]
    assert max(values) < 1e-6
    assert min(values) >= 0
    assert len(values) == len(dict(full_divergences(base, same)))


def test_every_answer_token_is_one_item_of_its_request_in_its_band(make: Made, drift: Drift) -> None:
    subject = make("llama")
    found = drift(subject, moved(make, "llama", 0.1))
    lengths = {r.id: len(distributions(subject, r)) for r in REQUESTS}
    assert [m.item for m in found] == [
        f"{name}@{at}" for name, length in lengths.items() for at in range(1, length + 1)
    ]
    assert max(lengths.values()) > 25
    for m in found:
        name, _, at = m.item.partition("@")
        assert (m.metric, m.cluster, m.group) == ("drift.kl", name, f"token {band(int(at) - 1)}")


def test_bands_are_named_by_positions_counted_from_one() -> None:
    assert [band(position) for position in range(26)] == [
        "1", *["2-3"] * 2, *["4-6"] * 3, *["7-12"] * 6, *["13-24"] * 12, "25+", "25+",
    ]  # fmt: skip
    assert band(10_000) == "25+"


# --- the divergence itself ------------------------------------------------------------------------------

logits = st.floats(-12, 12, width=32)
pairs = st.integers(2, 30).flatmap(
    lambda size: st.tuples(*(st.lists(logits, min_size=size, max_size=size) for _ in range(2)))
)


def kept_only(p: torch.Tensor, q: torch.Tensor, kept: int) -> list[float]:
    """The divergence with the ``kept`` likeliest tokens of ``p`` (log-probabilities in double precision)."""
    top = p.topk(kept, dim=-1)
    rest = p.exp().scatter(-1, top.indices, 0).sum(-1).log()
    found: list[float] = divergence(top.values.float(), rest.float(), top.indices.int(), q.float()).tolist()
    return found


@given(pairs)
@settings(max_examples=150, deadline=None)
def test_keeping_fewer_tokens_only_lowers_it_and_never_below_zero(pair: tuple[list[float], list[float]]) -> None:
    p, q = (torch.tensor([row], dtype=torch.float64).log_softmax(-1) for row in pair)
    full = float((p.exp() * (p - q)).sum())
    found = [kept_only(p, q, kept)[0] for kept in range(1, p.shape[-1] + 1)]
    assert found[-1] == pytest.approx(full, abs=1e-5)
    assert all(0 <= value <= full + 1e-5 for value in found)
    assert all(fewer <= more + 1e-5 for fewer, more in pairwise(found))


@given(pairs, st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_equal_distributions_diverge_by_nothing(pair: tuple[list[float], list[float]], kept: int) -> None:
    p = torch.tensor(pair, dtype=torch.float64).log_softmax(-1)
    assert kept_only(p, p, min(kept, p.shape[-1])) == pytest.approx([0, 0], abs=1e-6)


def test_a_coin_by_hand() -> None:
    p, q = (torch.tensor([row]).log() for row in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert kept_only(p, q, 1) == pytest.approx([expected], abs=1e-6)
    assert kept_only(p, q, 3) == pytest.approx([0.25 * np.log(2)], abs=1e-6)


@pytest.mark.parametrize("left", [1e-3, 1e-6, 1e-9, 1e-20, 1e-35])
def test_it_stays_a_lower_bound_where_the_tuned_model_is_sure_of_what_is_kept(left: float) -> None:
    # One token is left over, so that merging the rest loses nothing.
    p, q = (torch.tensor([[(1 - x) / 2, (1 - x) / 2, x]], dtype=torch.float64).log() for x in (0.04, left))
    assert kept_only(p, q, 2) == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), rel=1e-5)
    assert kept_only(q, p, 2) == pytest.approx((q.exp() * (q - p)).sum(-1).tolist(), rel=1e-4)


# --- what cannot be compared ----------------------------------------------------------------------------


def test_subjects_that_render_answers_to_other_tokens_are_refused_before_any_work(
    make: Made, probing: Probing, tmp_path: Path
) -> None:
    plan = probing(drift=REQUESTS)
    measure_subject(make("llama"), plan, tmp_path, keep_reference=True)
    other = make("llama", template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                 "{% if add_generation_prompt %}assistant:{% endif %}")  # fmt: skip
    passes: list[int] = []
    other.model.register_forward_hook(lambda *_: passes.append(1))
    (tmp_path / "tuned").mkdir()
    with pytest.raises(SubjectError, match=r"^live: renders the answer of r-1 to other tokens than the base"):
        measure_subject(other, plan, tmp_path / "tuned", drift_from=tmp_path / REFERENCE)
    assert passes == []


def test_another_system_prompt_alone_does_not_hinder(make: Made, drift: Drift, tiny_tokenizer: Any) -> None:
    brief = tiny_tokenizer.chat_template.replace("You are a helpful AI assistant", "You are a brief AI assistant")
    assert brief != tiny_tokenizer.chat_template
    base, tuned = make("llama"), make("llama", template=brief)
    assert {m.item: m.value for m in drift(base, tuned)} == pytest.approx(dict(full_divergences(base, tuned)), abs=1e-4)


def test_an_answer_that_does_not_fit_the_context_is_named(make: Made, probing: Probing, tmp_path: Path) -> None:
    placed = [Request(r.id, r.category, r.prompt, r.response, "answers.jsonl", n) for n, r in enumerate(REQUESTS, 1)]
    with pytest.raises(UsageError, match=r"^answers\.jsonl:2: takes \d+ tokens, the context of live holds 120; "):
        measure_subject(make("gpt2", n_positions=120), probing(drift=placed), tmp_path, keep_reference=True)
    assert not (tmp_path / REFERENCE).exists()


def test_the_shipped_answers_are_those_to_harmless_requests_of_every_category() -> None:
    shipped = read_requests(shipped_path("safety/harmless"))
    chosen = MeasurePlan(probes=("drift",)).drift_requests
    assert len(set(chosen)) == len(chosen) == 40
    assert set(chosen) <= set(shipped)
    assert {r.category for r in chosen} == {r.category for r in shipped}
    assert drift_content(chosen) != drift_content(chosen[:-1])
