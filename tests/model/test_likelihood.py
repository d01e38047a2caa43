"""Scores equal a plain pass over each row, whatever is shared, batched, halved or padded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.data import ask
from aftertune.errors import AftertuneError, MemoryExhausted, NumericalError, UsageError
from aftertune.model import (
    Placement,
    PromptAnswers,
    PromptBatches,
    ResponseLikelihood,
    Subject,
    as_subject,
    load,
    plan_batches,
    score,
    score_batches,
)
from aftertune.model._likelihood import sharing_is_exact
from aftertune.model._prompt_batches import common_prefix, split_wide

ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")
BOUNDS = (1, 37, 200, 10_000)
TinySubject = Callable[[str], Subject]


def tokens(generator: torch.Generator, length: int, vocabulary: int = 320) -> tuple[int, ...]:
    return tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist())


def cases_of_many_shapes(seed: int, *, preamble: int) -> list[PromptAnswers]:
    """Prompts and responses of many lengths, a duplicate case, duplicate responses."""
    generator = torch.Generator().manual_seed(seed)
    head = tokens(generator, preamble)
    shapes = [(5, (3, 7)), (1, (4,)), (30, (1, 2, 3, 25)), (12, (40,)), (2, (6, 6)), (9, (1,)), (17, (8, 3))]
    cases = [PromptAnswers(head + tokens(generator, p), tuple(tokens(generator, r) for r in rs)) for p, rs in shapes]
    twice = cases[0].responses[0]
    return [*cases, cases[2], PromptAnswers(cases[3].prompt, (twice, twice))]


def plain_log_probability(model: Any, prompt: Sequence[int], response: Sequence[int]) -> float:
    """One row, one full forward pass, no mask, no positions, no cache of ours."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    logp = torch.log_softmax(logits.double(), -1)
    at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return sum(float(logp[i, t]) for i, t in zip(at, response, strict=True))


def assert_equals_plain(subject: Subject, cases: Sequence[PromptAnswers], got: list[list[ResponseLikelihood]]) -> None:
    assert [len(row) for row in got] == [len(case.responses) for case in cases]
    for case, row in zip(cases, got, strict=True):
        for response, found in zip(case.responses, row, strict=True):
            expected = plain_log_probability(subject.model, case.prompt, response)
            assert found.tokens == len(response)
            assert found.total == pytest.approx(expected, abs=1e-4 * len(response))
            assert found.mean == pytest.approx(expected / len(response), abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestEveryArchitecture:
    @pytest.mark.parametrize("preamble", [0, 20], ids=["no-preamble", "preamble"])
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_scores_equal_plain_passes(
        self, architecture: str, bound: int, preamble: int, tiny_subject: TinySubject
    ) -> None:
        subject = tiny_subject(architecture)
        cases = cases_of_many_shapes(bound, preamble=preamble)
        assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=bound))

    def test_random_logits_are_not_flat(self, architecture: str, tiny_subject: TinySubject) -> None:
        # Otherwise a wrong mask would pass for a right one.
        subject = tiny_subject(architecture)
        with torch.no_grad():
            assert float(subject.model(input_ids=torch.arange(3, 60)[None]).logits.std()) > 0.5

    def test_sharing_is_exact(self, architecture: str, tiny_subject: TinySubject) -> None:
        subject = tiny_subject(architecture)
        assert sharing_is_exact(subject)
        assert subject.shares_prompts

    def test_sharing_and_not_sharing_agree(self, architecture: str, tiny_subject: TinySubject) -> None:
        subject = tiny_subject(architecture)
        cases = cases_of_many_shapes(1, preamble=20)
        shared = score(subject, cases)
        subject.__dict__["shares_prompts"] = False
        apart = score(subject, cases)
        flat = [(a.total, b.total) for xs, ys in zip(shared, apart, strict=True) for a, b in zip(xs, ys, strict=True)]
        assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in flat)


def test_single_token_prompts_alone(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    cases = [PromptAnswers((7,), ((9, 10), (11,))), PromptAnswers((7,), ((12,),))]
    assert_equals_plain(subject, cases, score(subject, cases))


def test_identical_prompts_share_all_but_their_last_token(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    prompt = tuple(range(10, 40))
    cases = [PromptAnswers(prompt, ((5, 6),)), PromptAnswers(prompt, ((7,), (8, 9)))]
    assert common_prefix(cases) == 29
    assert PromptBatches(subject, cases).prefix == prompt[:29]
    assert_equals_plain(subject, cases, score(subject, cases))


def test_a_prompt_that_is_a_prefix_of_another(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("qwen2")
    long = tuple(range(10, 60))
    cases = [PromptAnswers(long, ((5, 6),)), PromptAnswers(long[:20], ((7,), (8, 9)))]
    assert_equals_plain(subject, cases, score(subject, cases))


def test_order_is_kept_and_duplicates_score_alike(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    cases = cases_of_many_shapes(3, preamble=0)
    got = score(subject, cases, max_batch_tokens=90)
    backwards = score(subject, cases[::-1], max_batch_tokens=90)[::-1]
    for one, other in zip(got, backwards, strict=True):
        assert [s.total for s in one] == pytest.approx([s.total for s in other], abs=1e-3)
    assert got[7][3].total == pytest.approx(got[2][3].total, abs=1e-4)
    assert got[8][0].total == pytest.approx(got[8][1].total, abs=1e-4)


def test_no_cases_no_scores(tiny_subject: TinySubject) -> None:
    assert score(tiny_subject("llama"), []) == []


@pytest.mark.parametrize("case", [PromptAnswers((), ((1,),)), PromptAnswers((1,), ()), PromptAnswers((1,), ((),))])
def test_a_case_without_prompt_or_response_is_refused(case: PromptAnswers, tiny_subject: TinySubject) -> None:
    with pytest.raises(AftertuneError, match="prompt and non-empty responses"):
        score(tiny_subject("llama"), [case])


def test_an_adapter_shares_prompts_and_scores_right(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "adapter")
    subject = load(tmp_path / "adapter", base=str(tiny_folder("llama")))
    assert subject.shares_prompts
    cases = cases_of_many_shapes(4, preamble=10)
    assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=100))


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_shapes_and_any_bound_score_right(data: st.DataObject, tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    word = st.integers(0, 319)
    head = tuple(data.draw(st.lists(word, max_size=8)))
    sentence = st.lists(word, min_size=1, max_size=12).map(tuple)
    case = st.builds(
        PromptAnswers, sentence.map(lambda p: head + p), st.lists(sentence, min_size=1, max_size=4).map(tuple)
    )
    cases = data.draw(st.lists(case, min_size=1, max_size=5))
    bound = data.draw(st.integers(1, 150))
    assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=bound))


# --- models that share badly ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bloom", "mamba"])
def test_models_that_ignore_positions_are_detected_and_scored_right(
    architecture: str, tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    subject = as_subject(tiny_model(architecture), tiny_tokenizer)
    assert not subject.shares_prompts
    cases = cases_of_many_shapes(5, preamble=20)
    prompts = PromptBatches(subject, cases)
    assert prompts.prefix == ()
    assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=150))


@pytest.mark.parametrize("bound", BOUNDS)
def test_rows_beyond_a_sliding_window_are_scored_right(
    bound: int, tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    subject = as_subject(tiny_model("mistral"), tiny_tokenizer)
    assert subject.model.config.sliding_window == 16
    cases = cases_of_many_shapes(6, preamble=20)
    assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=bound))


def test_rows_within_a_sliding_window_are_shared_and_scored_right(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    subject = as_subject(tiny_model("mistral", sliding_window=60), tiny_tokenizer)
    cases = [
        PromptAnswers(tuple(range(10, 30)), ((5, 6), (7, 8, 9))),
        PromptAnswers(tuple(range(10, 36)), ((11,), (12, 13))),
    ]
    assert PromptBatches(subject, cases).sharing
    assert_equals_plain(subject, cases, score(subject, cases))


def test_rows_beyond_a_window_of_another_name_are_scored_right(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    # GPT-Neo's local layers call it window_size; the 24-token trial does not reach it.
    subject = as_subject(tiny_model("gpt_neo"), tiny_tokenizer)
    cases = cases_of_many_shapes(7, preamble=20)
    assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=10_000))


def test_rows_beyond_an_attention_chunk_are_scored_right(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    # Llama 4 attends within chunks of attention_chunk_size on most of its layers.
    subject = as_subject(tiny_model("llama4_text"), tiny_tokenizer)
    cases = cases_of_many_shapes(8, preamble=20)
    assert_equals_plain(subject, cases, score(subject, cases, max_batch_tokens=10_000))


# --- things that go wrong -------------------------------------------------------------------------------


def starve(monkeypatch: pytest.MonkeyPatch, model: Any, most: int) -> list[int]:
    """Let the forward pass of a transformers model run out of memory above ``most`` padded tokens."""
    forward = type(model).forward
    passes: list[int] = []

    def hungry(self: Any, *args: Any, **kwargs: Any) -> Any:
        size = kwargs["input_ids"].numel()
        passes.append(size)
        if size > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} MiB")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", hungry)
    return passes


def test_out_of_memory_halves_the_batch_and_changes_nothing(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    cases = [PromptAnswers(tuple(range(10 + i, 30 + i)), ((5 + i, 6), (7,))) for i in range(16)]
    expected = score(subject, cases, max_batch_tokens=1000)
    subject.max_batch_tokens = 1000
    passes = starve(monkeypatch, subject.model, 100)
    got = score(subject, cases)
    assert max(passes) == 16 * 21
    assert subject.max_batch_tokens <= 500
    for one, other in zip(got, expected, strict=True):
        assert [s.total for s in one] == pytest.approx([s.total for s in other], abs=1e-4)


def test_one_shortage_halves_the_bound_once(tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject("llama")
    subject.max_batch_tokens = 1000
    cases = [PromptAnswers(tuple(range(10 + i, 30 + i)), ((5 + i, 6), (7,))) for i in range(8)]
    assert subject.shares_prompts
    starve(monkeypatch, subject.model, 4 * 21)
    score(subject, cases)
    assert subject.max_batch_tokens == 500


def test_out_of_memory_on_one_case_is_told_with_a_mend(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    assert subject.shares_prompts
    starve(monkeypatch, subject.model, 20)
    with pytest.raises(MemoryExhausted, match=r"out of memory on a single example of 50 tokens; .*--d") as caught:
        score(subject, [PromptAnswers(tuple(range(10, 50)), (tuple(range(60, 70)),))])
    assert "\n" not in str(caught.value)


def test_out_of_memory_on_a_case_of_many_responses_takes_them_apart(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    cases = [PromptAnswers(tuple(range(10, 30)), tuple(tuple(range(40 + i, 60 + i)) for i in range(4)))]
    expected = score(subject, cases)
    starve(monkeypatch, subject.model, 60)  # one response fits, four do not
    got = score(subject, cases)
    assert [s.total for s in got[0]] == pytest.approx([s.total for s in expected[0]], abs=1e-4)


def test_other_runtime_errors_are_not_taken_for_a_shortage(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    assert subject.shares_prompts

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(type(subject.model), "forward", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        score(subject, [PromptAnswers((5, 6), ((7,),))])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(poison: float, tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    assert subject.shares_prompts
    with torch.no_grad():
        subject.model.get_output_embeddings().weight[17, :] = poison
    with pytest.raises(NumericalError, match=r"NaN or infinite logits; .*--dtype float32"):
        score(subject, [PromptAnswers((5, 6, 7), ((8, 9),))])


def test_logits_that_are_no_numbers_are_refused_before_sharing_was_tried(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    with torch.no_grad():
        subject.model.get_output_embeddings().weight[17, :] = float("nan")
    with pytest.raises(NumericalError):
        score(subject, [PromptAnswers((5, 6, 7), ((8, 9),))])


def test_an_overlong_case_is_named_and_nothing_is_cut(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    fits = PromptAnswers((5,) * 500, ((6,) * 12, (7,) * 12))  # 524 tokens, but no path longer than 512
    over = PromptAnswers((5,) * 500, ((6,), (7,) * 13))
    assert_equals_plain(subject, [fits], score(subject, [fits]))
    with pytest.raises(UsageError, match=r"^example 2: takes 513 tokens, the context of .* holds 512; shorten"):
        score(subject, [fits, over])


def test_hooks_are_gone_after_scoring_and_after_failing(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    cases = cases_of_many_shapes(2, preamble=20)
    score(subject, cases)
    starve(monkeypatch, subject.model, 1)
    with pytest.raises(MemoryExhausted):
        score(subject, cases)
    assert not subject.model.get_output_embeddings()._forward_pre_hooks


# --- plans ----------------------------------------------------------------------------------------------

lengths = st.lists(st.tuples(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=5)), max_size=30)


def cases_of(shapes: list[tuple[int, list[int]]]) -> list[PromptAnswers]:
    return [PromptAnswers((1,) * p, tuple((2,) * r for r in rs)) for p, rs in shapes]


@given(lengths, st.integers(1, 300))
def test_a_plan_holds_every_case_once_within_the_bound(shapes: list[tuple[int, list[int]]], bound: int) -> None:
    cases = cases_of(shapes)
    batches = plan_batches(cases, bound)
    assert sorted(i for batch in batches for i in batch) == list(range(len(cases)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(cases[i].tokens for i in batch) <= bound
    assert plan_batches(cases, bound) == batches


@given(lengths, st.integers(1, 300), st.integers(0, 40))
def test_a_plan_leaves_the_shared_prefix_out_of_its_sizes(
    shapes: list[tuple[int, list[int]]], bound: int, skip: int
) -> None:
    cases = cases_of([(p + skip, rs) for p, rs in shapes])
    for batch in plan_batches(cases, bound, skip):
        assert len(batch) == 1 or len(batch) * max(cases[i].tokens - skip for i in batch) <= bound


@given(lengths, st.integers(1, 300))
def test_wide_cases_are_cut_into_all_their_responses_in_order(shapes: list[tuple[int, list[int]]], bound: int) -> None:
    cases = cases_of(shapes)
    seen: dict[int, list[tuple[int, ...]]] = {i: [] for i in range(len(cases))}
    for index, first, part in split_wide(cases, bound):
        assert part.prompt == cases[index].prompt
        assert first == len(seen[index])
        assert len(part.responses) == 1 or part.tokens <= bound
        seen[index] += part.responses
    assert seen == {i: list(case.responses) for i, case in enumerate(cases)}


def test_batches_that_are_known_are_not_computed_again(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    cases = cases_of_many_shapes(9, preamble=0)
    everything = list(score_batches(subject, cases, max_batch_tokens=60))
    assert len(everything) > 3
    rest = list(score_batches(subject, cases, max_batch_tokens=60, skip=lambda number, members: number < 2))
    assert [number for number, _, _ in rest] == [number for number, _, _ in everything][2:]
    assert [scores for _, _, scores in rest] == [scores for _, _, scores in everything[2:]]


def test_bfloat16_scores_are_near_those_of_plain_bfloat16(tiny_folder: Callable[[str], Path]) -> None:
    subject = load(tiny_folder("llama"), placement=Placement(dtype="bfloat16"))
    cases = cases_of_many_shapes(10, preamble=20)
    for case, row in zip(cases, score(subject, cases), strict=True):
        for response, found in zip(case.responses, row, strict=True):
            expected = plain_log_probability(subject.model, case.prompt, response)
            assert found.mean == pytest.approx(expected / len(response), abs=0.1)


@pytest.mark.real
def test_smollm2_scores_equal_plain_passes(smollm2: Path) -> None:
    subject = load(smollm2)
    assert subject.shares_prompts
    questions = {
        "What is the capital of France?": ("The capital of France is Paris.", "The capital of France is Berlin."),
        "What is 2 + 2?": ("4", "I do not know."),
        "Name a colour.": ("Blue.", "I do not know."),
    }
    cases = []
    for prompt, texts in questions.items():
        answers = tuple(subject.chat.response(ask(prompt), text) for text in texts)
        cases.append(PromptAnswers(subject.chat.prompt(ask(prompt)), answers))
    got = score(subject, cases)
    for case, row in zip(cases, got, strict=True):
        for response, found in zip(case.responses, row, strict=True):
            expected = plain_log_probability(subject.model, case.prompt, response)
            assert found.total == pytest.approx(expected, abs=2e-3)
    assert got[0][0].total > got[0][1].total
