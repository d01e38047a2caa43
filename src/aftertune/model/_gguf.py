"""GGUF files: which of their keys and tensors are known, and reading them.

transformers reads some keys, passes over the others without a word, and leaves its own defaults where it read nothing.
So every key of the architecture's namespace is looked up in the config that came out; one that says something else,
or that we cannot look up, is refused by name. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aftertune.errors import SubjectError, spelled_out
from aftertune.model._checkpoint import read_checkpoint
from aftertune.model._identity import content_digest
from aftertune.model._libraries import explain_reading, quiet_loading
from aftertune.runs import Progress, cache_root, explain_storage, new_folder

# Sizes that the shapes of the tensors repeat (and shapes are checked), and keys that enter no forward pass.
_REPEATED = {
    "vocab_size", "embedding_length", "feed_forward_length", "expert_feed_forward_length", "block_count",
    "expert_shared_feed_forward_length", "shortconv.l_cache", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size",
    "ssm.time_step_rank", "attention.q_lora_rank", "attention.kv_lora_rank",
    "nextn_predict_layers", "context_length", "tensor_data_layout", "decoder_start_token_id", "rope.scaling.finetuned",
}  # fmt: skip
# Where a config keeps a fact, by key; the first attribute that it has counts.
_PLACES: dict[str, tuple[str, ...]] = {
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "attention.clamp_kqv": ("clip_qkv",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "ssm.group_count": ("linear_num_key_heads", "n_groups"),
}
# What leaves the forward pass as it is, where a config has no such attribute.
_NEUTRAL = {
    "logit_scale": 1.0, "embedding_scale": 1.0, "residual_scale": 1.0, "expert_weights_scale": 1.0,
    "attention.head_count": 0, "attention.head_count_kv": 0,
    "expert_count": 0, "expert_used_count": 0, "expert_shared_count": 0,
    "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0, "attention.causal": True, "ssm.dt_b_c_rms": False,
    "rope.scale_linear": 1.0, "use_parallel_residual": True, "attention.shared_kv_layers": 0,
    "embedding_length_per_layer_input": 0,
}  # fmt: skip
# Ways of cutting text before merging that come to what GPT-2 does, the reader's fall-back. Those that also cut digits
# apart are among them: vocabularies learned so hold no merge across digits. (llama.cpp, src/llama-vocab.cpp.)
_CUT_AS_GPT2 = {
    "default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "roberta-bpe",
    "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "a.x-4.0", "mellum", "gigachat",
    "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
}  # fmt: skip
_SCALING = {
    "factor": "factor",
    "attn_factor": "attention_factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "type": "rope_type",
}


def architecture(reader: Any) -> str:
    """``general.architecture`` of a GGUF file, "" where it has none."""
    field = reader.fields.get("general.architecture")
    return str(field.contents()) if field is not None else ""


def key_fault(reader: Any, read_config: Callable[[], Any]) -> str | None:
    """What a GGUF file says that would not run, in words that end in the mend; None if all of it would.

    Args:
        reader: a `gguf.GGUFReader`.
        read_config: makes transformers' config of the file; called if the file holds a whole model.
    """
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    kind = fields.get("general.type")
    if kind is not None and kind.contents() != "model":
        return f"holds no whole model but '{spelled_out(str(kind.contents()))}'; name the model's own file"
    parts = fields.get("split.count")
    if parts is not None and int(parts.contents()) > 1:
        return f"is one of {int(parts.contents())} parts; merge them (llama-gguf-split --merge), and name the result"
    for tensor in reader.tensors:
        if tensor.name.startswith("rope_") and not bool((tensor.data == 1).all()):
            return (
                f"{spelled_out(tensor.name)} holds factors of its rotary frequencies (rope scaling, as of Llama 3.1), "
                "which would not be carried over; use the safetensors checkpoint"
            )
    if cut := _unknown_cut(fields):
        return (
            f"cuts its text in a way (tokenizer.ggml.pre '{spelled_out(cut)[:60]}') that transformers' reader does not "
            "know; use the safetensors checkpoint"
        )
    config = read_config().get_text_config()
    prefix = f"{architecture(reader)}."
    held = {name.removeprefix(prefix): field.contents() for name, field in fields.items() if name.startswith(prefix)}
    for key, value in held.items():
        if not _carried(key, value, config, held):
            return (
                f"its key {spelled_out(prefix + key)} ({spelled_out(str(value))[:60]}) would not be carried over; use "
                "the safetensors checkpoint"
            )
    if _slides(config) and not any("sliding_window" in key for key in held):
        return "names no attention window, but transformers would give it one; use the safetensors checkpoint"
    return None


def _unknown_cut(fields: Mapping[str, Any]) -> str | None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    model, cut = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if model is None or cut is None or model.contents() != "gpt2":
        return None
    named = str(cut.contents())
    return None if named in _CUT_AS_GPT2 or named in GGUF_PRE_TOKENIZER_SPLITS else named


def _carried(key: str, value: Any, config: Any, held: dict[str, Any]) -> bool:
    """Whether a config says what a key says."""
    if key in _REPEATED:
        return True
    if key.startswith(("rope.scaling.", "rope.scale")):
        return _scaled(key.removeprefix("rope.scaling."), value, config, held)
    if key in _SPECIAL:
        return _SPECIAL[key](value, config)
    for name in _PLACES.get(key, ()):
        found = getattr(config, name, None)
        if found is not None:
            return _equal(value, found)
    return key in _NEUTRAL and _equal(value, _NEUTRAL[key])


def _equal(value: Any, found: Any) -> bool:
    if isinstance(value, list):
        if isinstance(found, list):
            return len(value) == len(found) and all(map(_equal, value, found))
        # One number for each layer, where the config has one for all; layers of another kind have none.
        return all(_equal(one, found) or one == 0 for one in value) and any(_equal(one, found) for one in value)
    if isinstance(value, bool | str) or isinstance(found, bool | str):
        return bool(value == found)
    return math.isclose(value, found, rel_tol=1e-5, abs_tol=1e-12)  # fp32 in the file


def _rope(config: Any, kind: str = "full_attention") -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get(kind, rope) if isinstance(rope.get(kind, rope), dict) else {}


def _scaled(key: str, value: Any, config: Any, held: dict[str, Any]) -> bool:
    kind, factor = held.get("rope.scaling.type"), held.get("rope.scaling.factor", 1.0)
    if kind in (None, "none") or (kind == "linear" and factor == 1.0):
        # A file without a type is scaled linearly, if it has a factor; what is left then says nothing.
        if key in ("factor", "attn_factor", "rope.scale_linear"):
            return bool(value == 1.0) or (key == "factor" and kind == "none")
        return key != "alpha" or not value
    rope = _rope(config)
    if key == "yarn_log_multiplier" or key not in _SCALING:
        return False
    name = _SCALING[key]
    return name in rope and _equal(value, rope[name])


def _head_size(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_head", 1)
    return int(given or config.hidden_size // heads)


def _key_size(value: Any, config: Any) -> bool:
    sizes = [getattr(config, "global_head_dim", None), _head_size(config)]
    return _equal(value, next(size for size in sizes if size))


def _rotated(value: Any, config: Any) -> bool:
    share = _rope(config).get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
    size = getattr(config, "global_head_dim", None) or _head_size(config)
    return int(value) == int(size * share) or int(value) == getattr(config, "rotary_dim", None)


def _base(kind: str) -> Callable[[Any, Any], bool]:
    def same(value: Any, config: Any) -> bool:
        found = _rope(config, kind).get("rope_theta", getattr(config, "rope_theta", None))
        return found is not None and _equal(value, found)

    return same


def _scale(value: Any, config: Any) -> bool:
    given = getattr(config, "attention_multiplier", None)
    width = getattr(config, "query_pre_attn_scalar", None) or _head_size(config)
    return _equal(value, given if given is not None else width**-0.5)


def _gating(value: Any, config: Any) -> bool:
    named = {1: "softmax", 2: "sigmoid"}.get(int(value))
    return bool(named == getattr(config, "scoring_func", "softmax"))


def _pattern(value: Any, config: Any) -> bool:
    kinds = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or ()]
    if isinstance(value, list):
        return [bool(one) for one in value] == kinds
    return [(index + 1) % int(value) != 0 for index in range(len(kinds))] == kinds


def _interval(value: Any, config: Any) -> bool:
    kinds = [kind == "full_attention" for kind in getattr(config, "layer_types", None) or ()]
    return bool(kinds) and [(index + 1) % int(value) == 0 for index in range(len(kinds))] == kinds


def _sections(value: Any, config: Any) -> bool:
    return [one for one in value if one] == list(_rope(config).get("mrope_section", ()))


def _slides(config: Any) -> bool:
    return bool(getattr(config, "sliding_window", None)) and "sliding_attention" in (
        getattr(config, "layer_types", None) or ("sliding_attention",)
    )


_SPECIAL: dict[str, Callable[[Any, Any], bool]] = {
    "attention.key_length": _key_size,
    "attention.value_length": _key_size,
    "attention.key_length_swa": lambda value, config: _equal(value, _head_size(config)),
    "attention.value_length_swa": lambda value, config: _equal(value, _head_size(config)),
    "attention.scale": _scale,
    "attention.sliding_window_pattern": _pattern,
    "rope.dimension_count": _rotated,
    "rope.dimension_sections": _sections,
    "rope.freq_base": _base("full_attention"),
    "rope.freq_base_swa": _base("sliding_attention"),
    "expert_gating_func": _gating,
    "full_attention_interval": _interval,
}


# Part of the cache's folder names: conversions made before a check was added are not taken for checked ones.
_CONVERSION = 2


def converted_gguf(file: Path, progress: Progress) -> Path:
    """The folder of a GGUF file's weights in fp32, made on the first call.

    Raises:
        SubjectError: see `convert_gguf`.
        MemoryExhausted: the de-quantised model does not fit in memory.
    """
    with explain_storage(file):
        folder = cache_root() / f"gguf{_CONVERSION}-{content_digest(file)[:16]}"
    if not is_whole(folder):
        if folder.exists():  # damaged since; it is ours, and made anew from the file
            shutil.rmtree(folder, ignore_errors=True)
        progress.say(f"de-quantising {file.name} to safetensors (once)")
        with new_folder(folder, shared=True) as made:
            convert_gguf(file, made)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder of the cache has its config, tokenizer and all weights."""
    if not all((folder / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        return False
    with contextlib.suppress(SubjectError):
        return bool(read_checkpoint(folder))
    return False


def convert_gguf(file: Path, folder: Path) -> None:
    """De-quantise a GGUF file to fp32 and save it as an ordinary checkpoint folder.

    Raises:
        SubjectError: the file cannot be read as a model transformers knows, lacks a tensor, or holds a tensor or a
            key that transformers does not carry over.
        MemoryExhausted: the de-quantised model does not fit in memory.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    reading = explain_reading(file, "cannot be read as a GGUF model", "fetch it again, or use safetensors")
    with reading, quiet_loading():
        reader = GGUFReader(file)
        if fault := key_fault(reader, lambda: AutoConfig.from_pretrained(file.parent, gguf_file=file.name)):
            raise SubjectError(f"{file}: {fault}")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        _refuse_unread(reader, model, report, file)
    # The weights are plain fp32 now; without this, saving refuses them as quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    with quiet_loading():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _refuse_unread(reader: Any, model: Any, report: dict[str, Any], file: Path) -> None:
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise SubjectError(
            f"{file}: lacks weights ({len(missing)}, first: {spelled_out(missing[0])}); it is damaged or incomplete"
        )
    mismatched = sorted(report.get("mismatched_keys", ()))
    if mismatched:
        name, *shapes = mismatched[0][:3]
        there, asked = (tuple(shape) for shape in shapes)
        raise SubjectError(
            f"{file}: {spelled_out(name)} has shape {there}, its metadata asks for {asked}; the file is damaged"
        )
    unread = sorted({*report.get("unexpected_keys", ()), *_unread(reader, model)})
    if unread:
        raise SubjectError(
            f"{file}: {len(unread)} of its tensors are unread, because transformers does not know them (first: "
            f"{spelled_out(unread[0])}); use the safetensors checkpoint"
        )


def _unread(reader: Any, model: Any) -> Iterable[str]:
    """Names of tensors that transformers' reader passes over without a word.

    Found by two methods that share no code: by count (as many values in the file as in the model), and, where the
    counts differ, by the table of names.
    """
    from transformers.integrations.gguf.utils import is_gguf_arch_supported

    if is_gguf_arch_supported(architecture(reader)):
        return []  # read in transformers' newer way, whose report tells of all tensors
    held = {tensor.name: tensor for tensor in reader.tensors if not _is_neutral(tensor)}
    head, embedding = held.get("output.weight"), held.get("token_embd.weight")
    if head is not None and embedding is not None and _is_tied(model) and _same(head, embedding):
        del held["output.weight"]  # a copy of the embedding, which is read
    values = {id(p): p.numel() for p in model.parameters()} | {
        id(b): b.numel() for n, b in model.named_buffers() if n in model.state_dict()
    }
    if sum(int(tensor.n_elements) for tensor in held.values()) == sum(values.values()):
        return []
    return _without_place(held, reader, model) or ["a tensor of unknown name"]


def _without_place(names: Iterable[str], reader: Any, model: Any) -> list[str]:
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(architecture(reader), TensorProcessor)(config=model.config.to_dict())
    known = get_gguf_hf_weights_map(model, processor)
    return sorted(name for name in names if name not in known and name.removesuffix(".weight") not in known)


def _is_neutral(tensor: Any) -> bool:
    """Factors of the rotary frequencies that are all one change nothing."""
    return tensor.name == "rope_freqs.weight" and bool((tensor.data == 1).all())


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _same(one: Any, other: Any) -> bool:
    return one.tensor_type == other.tensor_type and bool((one.data == other.data).all())
