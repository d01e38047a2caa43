"""Digests of what surrounds the weights and decides what they compute: configuration and tokenizer.

The same weights under another ``rms_norm_eps``, rope base or vocabulary are another model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# All of a configuration counts but these: where it came from, how weights are initialised, what a classifier calls its
# classes, and which of its outputs a forward pass returns. The precision as run is told by the weights themselves.
_IDLE = frozenset({
    "_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype",
    "initializer_range", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
    "task_specific_params", "use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_scores",
})  # fmt: skip
# Likewise of an adapter's.
_IDLE_ADAPTER = frozenset({
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type",
    "init_lora_weights", "loftq_config", "eva_config", "corda_config",
})  # fmt: skip


def config_digest(model: Any) -> str:
    """SHA-256 (hex) of what a model's settings make of its weights.

    It covers the model's class and configuration, how attention is computed, the tokens that end an answer, and the
    configurations of adapters that run beside it: their scale is in no tensor.
    """
    adapters = getattr(model, "peft_config", None) or {}
    bare = model.get_base_model() if adapters and hasattr(model, "get_base_model") else model
    settings = {
        "class": type(bare).__name__,
        "config": _kept(bare.config.to_dict(), _IDLE),
        "attention": getattr(bare.config, "_attn_implementation", None),
        "end": getattr(getattr(bare, "generation_config", None), "eos_token_id", None),
    }
    if adapters:
        settings["adapters"] = {name: _kept(config.to_dict(), _IDLE_ADAPTER) for name, config in adapters.items()}
        settings["active"] = _active(model)
    return _digest(settings)


def _active(model: Any) -> list[str]:
    active = getattr(model, "active_adapters", [])
    return list(active() if callable(active) else active)  # a method in models that transformers gave an adapter


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of how text becomes tokens: vocabulary, merges, normaliser, added and special tokens."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        parts = json.loads(backend.to_str())
        for passing in ("truncation", "padding"):  # set by whoever called the tokenizer last
            parts.pop(passing, None)
    else:  # a tokenizer in Python, or of sentencepiece
        model = getattr(getattr(tokenizer, "sp_model", None), "serialized_model_proto", None)
        ranks = getattr(tokenizer, "bpe_ranks", {})
        parts = {
            "vocabulary": tokenizer.get_vocab(),
            "merges": sorted((rank, " ".join(pair)) for pair, rank in ranks.items()),
            "model": hashlib.sha256(model()).hexdigest() if callable(model) else None,
            "added": {number: repr(token) for number, token in tokenizer.added_tokens_decoder.items()},
        }
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
    special = {name: getattr(tokenizer, name, None) for name in names}
    cleans = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
    return _digest({"tokenizer": parts, "special": special, "cleans": cleans})


def _kept(value: Any, idle: frozenset[str]) -> Any:
    """What counts, as JSON values. What is off counts as not there: newer libraries add options that are off."""
    if isinstance(value, Mapping):
        kept = {str(key): _kept(inner, idle) for key, inner in value.items() if key not in idle}
        return {key: inner for key, inner in kept.items() if inner is not None and inner is not False}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_kept(inner, idle) for inner in value] if isinstance(value, list | tuple) else value


def _digest(parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
