"""Tokens and embeddings of different sizes: refused before anything runs, or the adapter's own rows are taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.data import Message
from aftertune.errors import SubjectError
from aftertune.model import as_subject, load, save_model

TinyFolder = Callable[[str], Path]
TinyModel = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IDS = torch.arange(3, 40)[None]


def refusal(spec: object, **options: Any) -> str:
    with pytest.raises(SubjectError) as caught:
        load(str(spec), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def grown(tiny_tokenizer: Any) -> Any:
    """The tiny tokenizer with one token more, which its template prints."""
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "<|new|>")
    return tokenizer


def test_a_template_that_prints_a_token_beyond_the_embedding_is_refused(
    grown: Any, tiny_model: TinyModel, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    save_model(tiny_model("llama"), grown, tmp_path / "model")
    line = refusal(tmp_path / "model")
    assert "token <|new|> has the id 320, but the embedding has 320 rows (the tokenizer knows 321 tokens)" in line
    assert "token <|new|>" in refusal(tiny_folder("llama"), tokenizer=str(tmp_path / "model"))
    with pytest.raises(SubjectError, match=r"token <.new.> has the id 320"):
        as_subject(tiny_model("llama"), grown, "mine")


def test_text_that_spells_a_control_token_beyond_the_embedding_is_text(
    grown: Any, tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    grown.chat_template = tiny_tokenizer.chat_template
    save_model(tiny_model("llama"), grown, tmp_path / "model")
    subject = load(tmp_path / "model")  # as of text models whose tokenizer knows a token for pictures
    prompt = subject.chat.prompt([Message("user", "Look at <|new|> this")])
    assert max(prompt) < subject.vocabulary == 320
    assert "Look at <|new|> this" in grown.decode(prompt)


def test_an_added_word_that_no_template_prints_is_refused_where_it_is_met(
    tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["aftertune"])  # no control token: text may hold it, and encoding makes its id of it
    save_model(tiny_model("llama"), tokenizer, tmp_path / "model")
    subject = load(tmp_path / "model")
    subject.chat.prompt([Message("user", "Hello")])
    with pytest.raises(SubjectError, match="token aftertune has the id 320"):
        subject.chat.prompt([Message("user", "What is aftertune?")])


def test_an_ordinary_vocabulary_beyond_the_embedding_is_refused(
    tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    save_model(tiny_model("llama", vocab_size=300), tiny_tokenizer, tmp_path / "model")
    assert "has the id 319, but the embedding has 300 rows" in refusal(tmp_path / "model")


def test_an_embedding_with_rows_to_spare_is_no_fault(
    tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    save_model(tiny_model("llama", vocab_size=384), tiny_tokenizer, tmp_path / "model")
    assert load(tmp_path / "model").vocabulary == 384


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=["plain", "whole"])
@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_over_a_resized_base_brings_its_rows(
    architecture: str, settings: dict[str, Any], merge: bool, grown: Any, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder(architecture))
    base.resize_token_embeddings(len(grown))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    live = peft.get_peft_model(base, config)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    live.save_pretrained(tmp_path / "adapter")
    grown.save_pretrained(tmp_path / "adapter")
    subject = load(tmp_path / "adapter", merge=merge)
    assert subject.vocabulary == 321
    with torch.no_grad():
        torch.testing.assert_close(
            subject.model(input_ids=IDS).logits, live.eval()(input_ids=IDS).logits, atol=1e-4, rtol=0
        )


def test_an_adapter_that_brings_only_a_part_of_the_new_rows_tells_how_to_resize(
    grown: Any, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    base.resize_token_embeddings(len(grown))
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    grown.save_pretrained(tmp_path / "adapter")
    line = refusal(tmp_path / "adapter")
    assert "a base whose vocabulary was resized to 321 tokens, and this one has 320" in line
    assert "give the right one with --base" not in line


def test_an_adapter_over_a_base_that_was_cut_to_its_tokenizer_brings_its_rows(
    tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import peft

    save_model(tiny_model("llama", vocab_size=384), tiny_tokenizer, tmp_path / "padded")
    base = tiny_model("llama", vocab_size=384)
    base.resize_token_embeddings(len(tiny_tokenizer))
    live = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    live.peft_config["default"].base_model_name_or_path = str(tmp_path / "padded")
    live.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    subject = load(tmp_path / "adapter")
    assert subject.vocabulary == len(tiny_tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(subject.model(input_ids=IDS).logits, live.eval()(input_ids=IDS).logits)
