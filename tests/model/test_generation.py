"""Sampled answers: equal to transformers token for token, distributed as the model says, counted truly."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy import stats

from aftertune.data import Message
from aftertune.errors import MemoryExhausted, NumericalError, SubjectError, UsageError
from aftertune.model import GenerationRequest, Sampling, Subject, as_subject, generate, load, plan_generation
from aftertune.model._sampling import choose_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TinySubject = Callable[[str], Subject]

GRID = ("llama", "gpt2", "qwen2", "mixtral", "mistral", "gpt_neo")
PROMPTS = ("Hi.", "What should I do with the money?", "The doctor said that the patient should rest. " * 4, "Water?")


def prompts(subject: Subject) -> list[tuple[int, ...]]:
    return [subject.chat.prompt([Message("user", text)]) for text in PROMPTS]


def greedy(tokens: int = 24, **settings: Any) -> Sampling:
    return Sampling(max_tokens=tokens, temperature=0.0, **settings)


def theirs(subject: Subject, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """Greedy output of `transformers`, one prompt at a time."""
    ids = torch.tensor([prompt])
    out = subject.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, use_cache=True
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("bound", [1, 300, None])
@pytest.mark.parametrize("architecture", GRID)
def test_greedy_equals_transformers_at_any_batch(
    tiny_subject: TinySubject, architecture: str, bound: int | None
) -> None:
    subject = tiny_subject(architecture)
    asked = prompts(subject)
    answers = generate(subject, [GenerationRequest(p, greedy()) for p in asked], max_batch_tokens=bound)
    for prompt, answer in zip(asked, answers, strict=True):
        assert list(answer.ids) == theirs(subject, prompt, 24)


@pytest.mark.real
def test_greedy_equals_transformers_on_the_real_subject(smollm2: Path) -> None:
    subject = load(smollm2)
    asked = prompts(subject)
    together = generate(subject, [GenerationRequest(p, greedy(16)) for p in asked])
    alone = generate(subject, [GenerationRequest(p, greedy(16)) for p in asked], max_batch_tokens=1)
    for prompt, one, other in zip(asked, together, alone, strict=True):
        assert list(one.ids) == list(other.ids) == theirs(subject, prompt, 16)
    assert "water" in together[3].text.lower()


def test_a_row_does_not_depend_on_its_neighbours(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    asked = prompts(subject)
    requests = [
        GenerationRequest(p, Sampling(max_tokens=12, temperature=0.8), seed) for p in asked for seed in range(3)
    ]
    together = generate(subject, requests)
    alone = [generate(subject, [request])[0] for request in reversed(requests)][::-1]
    assert [a.ids for a in together] == [a.ids for a in alone]
    assert len({a.ids for a in together}) > len(asked)


def test_samples_are_distributed_as_the_model_says(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("qwen2")
    prompt = prompts(subject)[0]
    with torch.no_grad():
        p = (subject.model(torch.tensor([prompt])).logits[0, -1].double() / 1.5).softmax(-1)
    count = 4000
    settings = Sampling(max_tokens=1, temperature=1.5)
    seen = Counter(a.ids[0] for a in generate(subject, [GenerationRequest(prompt, settings, s) for s in range(count)]))
    expected = p * count
    often = (expected >= 5).nonzero().flatten().tolist()
    observed = [seen[i] for i in often]
    rest = [count - sum(observed), count - float(expected[often].sum())]
    found = stats.chisquare([*observed, rest[0]], [*(float(expected[i]) for i in often), rest[1]])
    assert found.pvalue > 1e-4
    # The test could fail: another temperature is told apart.
    other = (subject.model(torch.tensor([prompt])).logits[0, -1].double()).softmax(-1).detach() * count
    far = stats.chisquare([*observed, rest[0]], [*(float(other[i]) for i in often), count - float(other[often].sum())])
    assert far.pvalue < 1e-6


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (8, 0.6), (1, 1.0), (0, 1e-9)])
def test_top_k_and_top_p_leave_what_transformers_leaves(top_k: int, top_p: float) -> None:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    logits = torch.randn(3, 40) * 2
    kept = TopKLogitsWarper(top_k)(None, logits) if top_k else logits
    kept = TopPLogitsWarper(top_p)(None, kept) if top_p < 1 else kept
    p = kept.double().softmax(-1)
    settings = Sampling(top_k=top_k, top_p=top_p)
    grid = [(i + 0.5) / 4000 for i in range(4000)]
    for row in range(3):
        drawn = choose_tokens(logits[row].expand(len(grid), -1), [settings] * len(grid), grid)
        share = torch.bincount(drawn, minlength=40) / len(grid)
        assert torch.equal(share > 0, p[row] > 1 / 4000) or float((share - p[row]).abs().max()) < 1 / 2000
        torch.testing.assert_close(share.double(), p[row], atol=1 / 2000, rtol=0)


def test_the_end_of_the_unit_interval_draws_a_possible_token() -> None:
    logits = torch.tensor([[0.0, 1.0, -math.inf]])
    assert choose_tokens(logits, [Sampling()], [1 - 2**-53]).tolist() == [1]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000, 5000])
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(400, size, generator=generator) * 4
    logits[:, : size // 3] = -math.inf
    logits[::2, 2 * size // 3 + 1 :] = -math.inf
    draws = [*torch.rand(396, generator=generator, dtype=torch.float64).tolist(), 0.0, 0.0, 1 - 2**-53, 1 - 2**-53]
    drawn = choose_tokens(logits, [Sampling(temperature=0.5)] * 400, draws)
    p = (logits.double() / 0.5).softmax(-1)
    after = p.cumsum(-1).gather(-1, drawn[:, None]).squeeze(-1)
    before = after - p.gather(-1, drawn[:, None]).squeeze(-1)
    u = torch.tensor(draws, dtype=torch.float64)
    # fp32 chunks: a draw within rounding of a border may fall on either side.
    assert bool(((before <= u + 1e-6) & (u <= after + 1e-6)).all())
    assert bool((after > before).all())


def test_settings_of_other_rows_change_nothing() -> None:
    logits = torch.randn(6, 700, generator=torch.Generator().manual_seed(1)) * 3
    settings = [Sampling(), Sampling(temperature=0), Sampling(temperature=0.7), Sampling(top_k=5),
                Sampling(top_p=0.5, temperature=2.0), Sampling()]  # fmt: skip
    draws = [0.1, 0.2, 0.3, 0.4, 0.5, 0.99]
    together = choose_tokens(logits, settings, draws).tolist()
    alone = [choose_tokens(logits[i : i + 1], [settings[i]], [draws[i]]).item() for i in range(6)]
    assert together == alone


def test_samples_of_a_prompt_share_its_encoding(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    first, second = prompts(subject)[:2]
    passes: list[tuple[int, ...]] = []
    subject.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    requests = [
        GenerationRequest(p, Sampling(max_tokens=3, temperature=5.0), s) for s in range(4) for p in (first, second)
    ]
    generate(subject, requests)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    assert shared > 10  # the system prompt of the template
    assert passes[:2] == [(1, shared), (2, max(len(first), len(second)) - shared)]
    assert all(width == 1 for _, width in passes[2:])


def test_stop_reasons_and_counts_are_true(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    prompt = prompts(subject)[0]
    end = subject.tokenizer.eos_token_id
    answers = generate(
        subject, [GenerationRequest(prompt, Sampling(max_tokens=200, temperature=3.0), s) for s in range(8)]
    )
    assert {a.stop_reason for a in answers} <= {"stop", "max_tokens"}
    assert any(a.stop_reason == "stop" for a in answers)
    for answer in answers:
        ended = answer.ids[-1] == end
        assert ended == (answer.stop_reason == "stop")
        assert ended or len(answer.ids) == 200
        assert end not in answer.ids[:-1]
        assert "<|im_end|>" not in answer.text


def test_the_context_ends_an_answer(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("gpt2")
    word = subject.tokenizer.encode("water")[0]
    prompt = (word,) * (subject.context - 3)
    answer = generate(subject, [GenerationRequest(prompt, greedy(50))])[0]
    assert answer.stop_reason in ("context", "stop")
    assert len(answer.ids) <= 3


def test_a_stop_string_ends_and_is_cut_off(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    prompt = prompts(subject)[1]
    whole = generate(subject, [GenerationRequest(prompt, greedy(20))])[0].text
    assert len(whole) > 6
    stop = whole[3:6]
    cut = generate(subject, [GenerationRequest(prompt, greedy(20, stop=("@never@", stop)))])[0]
    assert cut.text == whole[: whole.find(stop)]
    assert cut.stop_reason == "stop"


def test_logprobs_are_the_models_own(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("gpt2")
    prompt = prompts(subject)[1]
    answer = generate(subject, [GenerationRequest(prompt, Sampling(max_tokens=6, temperature=2.0, top_logprobs=4), 3)])[
        0
    ]
    with torch.no_grad():
        logits = subject.model(torch.tensor([[*prompt, *answer.ids]])).logits[0, len(prompt) - 1 : -1]
    logp = logits.log_softmax(-1)
    for step, token in enumerate(answer.tokens):
        assert token.id == answer.ids[step]
        assert token.logprob == pytest.approx(float(logp[step, token.id]), abs=1e-4)
        values, ids = logp[step].topk(4)
        assert [i for i, _ in token.top] == ids.tolist()
        assert [p for _, p in token.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Subject, int], None]]:
    """Make a subject run out of memory beyond so many rows."""

    def limit(subject: Subject, rows: int) -> None:
        forward = subject.model.forward

        def bounded(*args: Any, **kwargs: Any) -> Any:
            if kwargs["input_ids"].shape[0] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 MiB")
            return forward(*args, **kwargs)

        monkeypatch.setattr(subject.model, "forward", bounded)

    return limit


def test_out_of_memory_halves_the_batch_and_changes_nothing(
    tiny_subject: TinySubject, scarce: Callable[[Subject, int], None]
) -> None:
    subject = tiny_subject("llama")
    requests = [GenerationRequest(p, Sampling(max_tokens=8), s) for p in prompts(subject) for s in range(2)]
    expected = [a.ids for a in generate(subject, requests)]
    scarce(subject, 2)
    assert [a.ids for a in generate(subject, requests)] == expected
    scarce(subject, 0)
    with pytest.raises(MemoryExhausted, match="single answer"):
        generate(subject, requests)


def test_batches_keep_to_the_bound_and_keep_samples_together(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    requests = [GenerationRequest(p, Sampling(max_tokens=10), s) for s in range(3) for p in prompts(subject)]
    batches = plan_generation(subject, requests, 150)
    assert sorted(i for batch in batches for i in batch) == list(range(len(requests)))
    for batch in batches:
        longest = max(len(requests[i].prompt) + 10 for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= 150
    order = [requests[i].prompt for batch in batches for i in batch]
    assert sum(a != b for a, b in itertools.pairwise(order)) == len(PROMPTS) - 1


def test_bad_requests_say_what_is_wrong(
    tiny_subject: TinySubject, tiny_model: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    subject = tiny_subject("llama")
    with pytest.raises(UsageError, match="512 tokens, the context"):
        generate(subject, [GenerationRequest((1,) * 512)])
    with pytest.raises(UsageError, match="0 tokens"):
        generate(subject, [GenerationRequest(())])
    with pytest.raises(UsageError, match="vocabulary"):
        generate(subject, [GenerationRequest((10**6,))])
    for wrong in (
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_k": -1},
        {"max_tokens": 0},
        {"stop": ("",)},
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Sampling(**wrong)
    with torch.no_grad():
        subject.model.lm_head.weight[5] = math.nan
    with pytest.raises(NumericalError, match="NaN"):
        generate(subject, [GenerationRequest(prompts(subject)[0], greedy())])
    mamba = as_subject(tiny_model("mamba"), tiny_tokenizer)
    with pytest.raises(SubjectError, match="keeps no keys and values"):
        generate(mamba, [GenerationRequest(prompts(mamba)[0], greedy())])
