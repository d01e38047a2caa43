"""Heads are counted as the attention has them: against what the attention function itself is given, by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionInterface

from aftertune.attribution import select_units, unit_patch, unit_spaces
from aftertune.errors import UsageError
from aftertune.model import WeightView

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 16,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_text": {
        "head_dim": 8, "global_head_dim": 16, "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
    },
    "gpt_neox": {"num_key_value_heads": None},
    "phi3": {},
    "gpt_bigcode": {"multi_query": True},
    "gpt2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "glm4_moe_lite": LATENT,
    "minicpm3": LATENT,
    "mimo_v2_flash": {"head_dim": 16, "v_head_dim": 12, "n_routed_experts": 4, "moe_intermediate_size": 16,
                      "num_experts_per_tok": 2},
}  # fmt: skip


def build(kind: str) -> Any:
    torch.manual_seed(0)
    sizes = {**SIZES, **FAMILIES.get(kind, {})}
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()


@pytest.mark.parametrize("kind", FAMILIES)
def test_heads_are_those_that_the_attention_function_gets(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(kind)
    seen: list[tuple[int, int]] = []

    def watched(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        seen.append((query.shape[1], value.shape[-1]))
        return torch.zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    AttentionInterface.register("watched", watched)
    model.set_attn_implementation("watched")
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5]]))
    spaces = list(unit_spaces(WeightView(model), "head"))
    inputs = [space.matrix.parameter.shape[0 if space.matrix.kind == "conv1d" else 1] for space in spaces]
    assert len(seen) == len(spaces) == 2
    assert [(space.units, width // space.units) for space, width in zip(spaces, inputs, strict=True)] == seen


HYBRID = {
    "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 6,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 10, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip


def test_layers_may_differ_in_their_heads() -> None:
    config = transformers.AutoConfig.for_model("qwen3_next", **{**SIZES, **HYBRID})
    view = WeightView(transformers.AutoModelForCausalLM.from_config(config))
    assert [(s.matrix.layer, s.units) for s in unit_spaces(view, "head")] == [(0, 6), (1, 4)]


def test_a_head_put_to_zero_is_the_attention_without_it() -> None:
    """In latent attention, where a head's value is 12 wide: its block of the output matrix, and no other."""
    model = build("deepseek_v3")
    view = WeightView(model)
    space = next(iter(unit_spaces(view, "head")))
    columns = torch.arange(space.matrix.parameter.numel()).reshape(space.matrix.parameter.shape)[:, 12:24]
    patch = unit_patch(view, select_units(view, {space.matrix.name: torch.tensor([1])}, "head"))
    assert patch.edits[space.matrix.name].index.tolist() == columns.reshape(-1).sort().values.tolist()


def test_heads_that_cannot_be_told_apart_are_refused() -> None:
    paired = build("diffllama")
    with pytest.raises(UsageError, match="pairs its heads"):
        list(unit_spaces(WeightView(paired), "head"))
    odd = build("llama")
    odd.model.layers[1].self_attn.head_dim = 7  # neither this nor the configuration fits the matrix
    with pytest.raises(UsageError, match=r"layers\.1\.self_attn\.o_proj.* takes 32 inputs, which is not 4 heads of 7"):
        list(unit_spaces(WeightView(odd), "head"))
    assert len(list(unit_spaces(WeightView(odd), "neuron"))) == 2
