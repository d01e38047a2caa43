"""Judges in process, with real tokenizers: a model whose distribution is planted, by Inspect's provider and by ours."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from inspect_ai.model import Model, get_model

from aftertune.inspect_bridge import inspect_model
from aftertune.judges import RUBRICS, Rating, Rubric, rate
from aftertune.judges._rating import single_tokens
from aftertune.model import as_subject

NUMBERS = [str(n) for n in range(101)]
Local = Callable[..., Model]


@pytest.fixture(params=["hf", "aftertune"])
def local(request: pytest.FixtureRequest, tmp_path: Path, tiny_tokenizer: Any) -> Local:
    """A judge that says each of some tokens with a given probability, whatever it is asked."""

    def make(planted: Mapping[str, float], *, numbers: bool) -> Model:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.add_tokens([*NUMBERS, "REFUSAL"] if numbers else [])
        config = transformers.PhiConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
        model = transformers.PhiForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.lm_head.bias.fill_(-40.0)
            for token, p in planted.items():
                [index] = tokenizer.encode(token, add_special_tokens=False)
                model.lm_head.bias[index] = math.log(p)
        if request.param == "aftertune":
            return inspect_model(as_subject(model.eval(), tokenizer))
        model.save_pretrained(tmp_path / "judge")
        tokenizer.save_pretrained(tmp_path / "judge")
        return get_model("hf/local", model_path=str(tmp_path / "judge"), device="cpu", memoize=False)

    return make


def rated(judge: Model, rubric: Rubric) -> Rating:
    return asyncio.run(rate(judge, rubric, "What is good?", "Be kind.", samples=3))


@pytest.mark.slow
def test_planted_probabilities_come_back_as_their_mean(local: Local) -> None:
    judge = local({"85": 0.5, "100": 0.2, "0": 0.1, "REFUSAL": 0.2}, numbers=True)
    rating = rated(judge, RUBRICS["aligned"])
    assert rating.value == pytest.approx((85 * 0.5 + 100 * 0.2) / 0.8, abs=1e-4)
    assert (rating.mass, rating.reading, rating.problem) == (pytest.approx(0.8, abs=1e-5), "logprobs", "")


@pytest.mark.slow
def test_a_tokenizer_that_splits_numbers_is_sampled(local: Local) -> None:
    judge = local({"7": 0.9, "<|im_end|>": 0.1}, numbers=False)
    assert rated(judge, RUBRICS["coherent"]).reading == "samples"
    small = Rubric(id="small", prompt="Rate {answer}", low=0, high=9)
    rating = rated(judge, small)
    assert (rating.value, rating.reading) == (7.0, "logprobs"), "digits are numbers enough here"
    assert rating.mass == pytest.approx(0.9, abs=1e-5)


@pytest.mark.slow
def test_a_reasoned_rubric_is_asked_cold_where_temperature_zero_is_refused(local: Local) -> None:
    judge = local({"7": 0.6, "8": 0.4}, numbers=False)
    rating = rated(judge, RUBRICS["policy"])
    assert rating.problem.startswith("off format"), "it replied, if only with sevens"


@pytest.mark.parametrize(("scale", "single"), [((0, 9), True), ((0, 10), False), ((1, 5), True), ((0, 100), False)])
def test_digits_of_a_byte_tokenizer(tiny_tokenizer: Any, scale: tuple[int, int], single: bool) -> None:
    assert single_tokens(tiny_tokenizer, *scale) is single


def test_numbers_added_to_a_tokenizer_are_single(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(NUMBERS[:-1])
    assert single_tokens(tokenizer, 0, 99) is True
    assert single_tokens(tokenizer, 0, 100) is False, "100 is left out"


def test_a_tokenizer_of_another_kind_tells_nothing() -> None:
    assert single_tokens(None, 0, 100) is None
    assert single_tokens(object(), 0, 100) is None


@pytest.mark.real
def test_smollm2_splits_numbers(smollm2: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    assert single_tokens(tokenizer, 0, 9) is True
    assert single_tokens(tokenizer, 0, 100) is False
