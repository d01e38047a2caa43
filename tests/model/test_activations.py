"""The residual stream against transformers' hidden states and plain hooks; steering against additions by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from aftertune.errors import UsageError
from aftertune.model import (
    GenerationRequest,
    PromptAnswers,
    Sampling,
    Subject,
    as_subject,
    capture,
    decoder_layers,
    generate,
    response_losses,
    score,
    steered,
    steering,
)

TinySubject = Callable[[str], Subject]
FAMILIES = ("llama", "gpt2", "qwen2", "mixtral", "bloom")  # a layer of Bloom returns a tuple, the stream first
LENGTHS = ((9, 4), (5, 7), (12, 1), (7, 7))


def rows() -> list[PromptAnswers]:
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (count,), generator=generator).tolist())

    return [PromptAnswers(ids(prompt), (ids(response),)) for prompt, response in LENGTHS]


def hidden_states(subject: Subject, row: PromptAnswers) -> tuple[torch.Tensor, ...]:
    ids = torch.tensor([row.prompt + row.responses[0]])
    with torch.no_grad():
        states: tuple[torch.Tensor, ...] = subject.model(input_ids=ids, output_hidden_states=True).hidden_states
    return states


def final_norm(model: Any) -> Any:
    return model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm


def vectors(subject: Subject, *layers: int, seed: int = 0) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(32, generator=generator) for layer in layers}


def by_hand(subject: Subject, row: PromptAnswers, added: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of the response, one row alone, with hooks of this test's own."""

    def adding(vector: torch.Tensor) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + vector, *output[1:])
            return output + vector

        return hook

    inner = subject.model.transformer.h if hasattr(subject.model, "transformer") else subject.model.model.layers
    handles = [inner[layer].register_forward_hook(adding(vector)) for layer, vector in added.items()]
    ids = torch.tensor([row.prompt + row.responses[0]])
    logits = subject.model(input_ids=ids).logits[0].detach().log_softmax(-1)
    for handle in handles:
        handle.remove()
    start = len(row.prompt)
    return torch.stack([logits[start + i - 1, token] for i, token in enumerate(row.responses[0])])


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_streams_are_transformers_hidden_states(family: str, tiny_subject: TinySubject) -> None:
    subject = tiny_subject(family)
    for positions in ("response", "prompt", "prompt_end"):
        found = capture(subject, rows(), (0, 1), positions)  # type: ignore[arg-type]
        assert found.values.dtype == torch.float32
        for number, row in enumerate(rows()):
            states, start, end = hidden_states(subject, row), len(row.prompt), row.depth
            span = {"response": slice(start, end), "prompt": slice(0, start), "prompt_end": slice(start - 1, start)}
            own = found.values[:, found.owner == number]
            torch.testing.assert_close(own[0], states[1][0, span[positions]], rtol=1e-4, atol=1e-5)
            # The last hidden state of transformers is after the final norm.
            normed = final_norm(subject.model)(own[1])
            torch.testing.assert_close(normed, states[2][0, span[positions]], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.row_means()[:, number], own.mean(1))


def test_small_batches_change_nothing(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    whole = capture(subject, rows(), (1, 0))
    bound, subject.max_batch_tokens = subject.max_batch_tokens, 13
    try:
        cut = capture(subject, rows(), (1, 0))
    finally:
        subject.max_batch_tokens = bound
    torch.testing.assert_close(cut.values, whole.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(cut.owner, whole.owner)
    first = capture(subject, rows(), (0,))
    torch.testing.assert_close(first.values[0], whole.values[1])


def test_a_batch_that_does_not_fit_is_halved(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    subject = as_subject(tiny_model("llama"), tiny_tokenizer)
    whole = capture(subject, rows(), (0,))

    def shortage(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[0] > 1:
            raise RuntimeError("CUDA out of memory")

    subject.model.model.register_forward_pre_hook(shortage, with_kwargs=True)
    torch.testing.assert_close(capture(subject, rows(), (0,)).values, whole.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_scores_are_those_of_additions_by_hand(family: str, tiny_subject: TinySubject) -> None:
    subject = tiny_subject(family)
    # One prompt with two answers and a common beginning, so that prompts are shared and a prefix is cached.
    common = rows()[0].prompt
    shared = [
        PromptAnswers(common, (rows()[0].responses[0], rows()[1].responses[0])),
        PromptAnswers((*common, 9), rows()[3].responses),
    ]
    added = vectors(subject, 0, 1)
    plain = score(subject, shared)
    with steered(subject, added):
        found = score(subject, shared)
    for case, scores in zip(shared, found, strict=True):
        for response, one in zip(case.responses, scores, strict=True):
            expected = by_hand(subject, PromptAnswers(case.prompt, (response,)), added)
            assert one.total == pytest.approx(float(expected.sum()), rel=1e-4, abs=1e-3)
    assert abs(found[0][0].total - plain[0][0].total) > 0.01
    assert score(subject, shared) == plain
    assert not steering(subject.model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_blocks_nest_and_the_stream_moves_by_exactly_the_vector(family: str, tiny_subject: TinySubject) -> None:
    subject = tiny_subject(family)
    one, two = vectors(subject, 0, seed=1), vectors(subject, 0, seed=2)
    before = capture(subject, rows(), (0,)).values
    with steered(subject, one):
        with steered(subject, two):
            both = capture(subject, rows(), (0,)).values
            assert [layer for layer, _ in steering(subject.model)] == [0, 0]
        outer = capture(subject, rows(), (0,)).values
    torch.testing.assert_close(outer - before, one[0].expand_as(outer), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both - before, (one[0] + two[0]).expand_as(both), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(capture(subject, rows(), (0,)).values, before)


def test_steering_ends_with_an_error_in_the_block(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    with pytest.raises(ZeroDivisionError), steered(subject, vectors(subject, 1)):
        raise ZeroDivisionError
    assert not steering(subject.model)


def test_sampling_is_steered(tiny_subject: TinySubject) -> None:
    """A vector along one token's row of the head makes greedy sampling say that token."""
    subject = tiny_subject("llama")
    token = 77
    request = GenerationRequest(rows()[0].prompt, Sampling(temperature=0, max_tokens=5))
    [plain] = generate(subject, [request])
    head = subject.model.get_output_embeddings().weight[token].detach()
    norm = final_norm(subject.model).weight.detach()
    with steered(subject, {1: 1e4 * head / norm}):
        [found] = generate(subject, [request])
    assert found.ids == (token,) * 5
    assert generate(subject, [request]) == [plain]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_vector_are_finite_differences(family: str, tiny_subject: TinySubject) -> None:
    subject = tiny_subject(family)
    vector = torch.zeros(32, requires_grad=True)
    direction = vectors(subject, 0)[0]
    with steered(subject, {0: vector}):
        response_losses(subject, rows()).sum().backward()
    assert vector.grad is not None
    step = 1e-2

    def loss(scale: float) -> float:
        with torch.no_grad(), steered(subject, {0: scale * direction}):
            return float(response_losses(subject, rows()).double().sum())

    slope = (loss(step) - loss(-step)) / (2 * step)
    assert float(vector.grad @ direction) == pytest.approx(slope, rel=0.03, abs=0.02)


def test_layers_beneath_an_adapter_are_found(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    bare = tiny_model("llama")
    layers = list(bare.model.layers)
    adapted: Any = get_peft_model(bare, LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))
    assert list(decoder_layers(adapted)) == layers
    subject = as_subject(adapted, tiny_tokenizer)
    with torch.no_grad():
        ids = torch.tensor([rows()[0].prompt + rows()[0].responses[0]])
        states = adapted(input_ids=ids, output_hidden_states=True).hidden_states
    found = capture(subject, rows()[:1], (0,), "prompt").values[0]
    torch.testing.assert_close(found, states[1][0, : found.shape[0]], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_or_steered_is_refused(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    with pytest.raises(UsageError, match=r"layer 2 does not exist; the model has layers 0 to 1"):
        capture(subject, rows(), (0, 2))
    with pytest.raises(UsageError, match=r"layer -1 does not exist"), steered(subject, {-1: torch.zeros(32)}):
        pass
    with pytest.raises(UsageError, match=r"positions 'last': choose response, prompt, prompt_end"):
        capture(subject, rows(), (0,), "last")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"row 1: activations are read from a prompt with one response"):
        capture(subject, [PromptAnswers((3, 4), ((5,), (6,)))], (0,))
    narrow = {0: torch.zeros(32), 1: torch.zeros(31)}
    with pytest.raises(UsageError, match=r"has shape \(31,\), the model needs \(32,\)"), steered(subject, narrow):
        pass
    with pytest.raises(UsageError, match=r"holds NaN"), steered(subject, {0: torch.full((32,), float("nan"))}):
        pass
    assert not steering(subject.model)
