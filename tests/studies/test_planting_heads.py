"""A head is planted only where queries, keys and values of one width feed it."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from aftertune.attribution import unit_spaces
from aftertune.errors import UsageError
from aftertune.model import PromptAnswers, WeightView, as_subject
from aftertune.studies import Planting, planted

ROWS = [PromptAnswers((3, 4, 5), ((6, 7),)), PromptAnswers((5, 4), ((8, 9, 2),))]
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip


def subject(kind: str, tokenizer: Any, **more: Any) -> Any:
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, "vocab_size": len(tokenizer), **more})
    return as_subject(transformers.AutoModelForCausalLM.from_config(config), tokenizer, kind)


def counts(found: Any) -> list[int]:
    return [space.units for space in unit_spaces(WeightView(found.model), "head")]


def test_planted_heads_are_counted_while_they_are_there(tiny_tokenizer: Any) -> None:
    llama = subject("llama", tiny_tokenizer)
    with planted(llama, Planting("head", 1, "x", 0), ROWS, 1) as plant:
        assert counts(llama) == [4, 6]
        assert plant.units == (4, 5)
    assert counts(llama) == [4, 4]


def test_latent_attention_is_refused(tiny_tokenizer: Any) -> None:
    with (
        pytest.raises(UsageError, match="planting a head needs q_proj, k_proj, v_proj, o_proj"),
        planted(subject("deepseek_v3", tiny_tokenizer, **LATENT), Planting("head", 0, "x", 0), ROWS, 1),
    ):
        pass
