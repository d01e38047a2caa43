"""What is wrong with an adapter's file, found from the names and shapes in it before PEFT tries it.

Trainers save adapters in ways that no loader reads: empty under ZeRO-3, under the names of a compiled or wrapped
model, without the modules that were trained whole. The base is not to blame for these.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aftertune.errors import spelled_out
from aftertune.model._checkpoint import Stored

if TYPE_CHECKING:
    from peft import PeftConfig

_PREFIX = "base_model.model."
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "module.": "DDP or DeepSpeed",
}
_EXPERT = re.compile(r"^(.+\.experts)\.(\d{1,6})\.(.+)$")
_RAW = re.compile(r"\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\.([A-Za-z_][\w-]*)(?:\.weight)?$")


def file_fault(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    """What is wrong with an adapter's file whatever its base, in words that end in the mend; None if nothing is seen.

    Args:
        stored: the tensors of the file.
        config: the adapter's config.
        model: the base, for sizes of the vocabulary.
    """
    if not stored:
        return "its file holds no tensors; save it again (under ZeRO-3, gather the weights first)"
    for fault in (
        _no_values, _wrapped, _raw_names, _no_prefix, _modules_lacking, _magnitudes_lacking, _halves, _ranks, _experts,
    ):  # fmt: skip
        found = fault(stored, config, model)
        if found:
            return found
    return _other_vocabulary(stored, model)


def _no_values(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    empty = [name for name, tensor in stored.items() if not math.prod(tensor.shape)]
    if not empty:
        return None
    return (
        f"{len(empty)} of its tensors have size 0 (first: {spelled_out(empty[0])}); save it again (ZeRO-3 saves such "
        "where the weights were not gathered)"
    )


def _wrapped(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    for mark, source in _WRAPPERS.items():
        names = [n for n in stored if n.startswith(mark) or (mark != "module." and f".{mark}" in n)]
        if names:
            return (
                f"its tensors carry the prefix '{mark}' of {source} (first: {spelled_out(names[0])}); save the model "
                "inside the wrapper, or take the prefix out of the names"
            )
    return None


def _raw_names(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    for name in stored:
        found = _RAW.search(name)
        if found and found[1] != "weight" and found[1] != "bias":
            return (
                f"its tensors carry the adapter's name, as in a raw state dict ('.{found[1]}' in {spelled_out(name)}); "
                "save it with PEFT's save_pretrained, or take the name out"
            )
    return None


def _no_prefix(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    if any(name.startswith("base_model.") for name in stored):
        return None
    return (
        f"its tensors lack the prefix '{_PREFIX}' (first: {spelled_out(min(stored))}); save it with PEFT's "
        "save_pretrained, or put the prefix before the names"
    )


def _modules_lacking(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    held = [name for name, _ in model.named_modules()]
    for module in getattr(config, "modules_to_save", None) or ():
        there = any(name == module or name.endswith(f".{module}") for name in held)
        if there and not any(re.search(rf"(^|\.){re.escape(module)}\.", name) for name in stored):
            return (
                f"its config says that {spelled_out(module)} was trained whole (modules_to_save), but the file holds "
                "nothing of it; save it again"
            )
    return None


def _magnitudes_lacking(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    if not getattr(config, "use_dora", False) or any("magnitude" in name for name in stored):
        return None
    return "its config says DoRA (use_dora), but the file holds no magnitude vectors; save it again"


def _halves(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    for one, other in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
        for name in stored:
            # MiCA and the like leave one half to the config; none of them saves it under these names for one layer.
            if f".{one}." in name and name.endswith(".weight") and name.replace(one, other) not in stored:
                return f"its file holds {spelled_out(name)} without its {other}; save or copy it again"
    return None


def _ranks(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    from peft.utils.other import get_pattern_key

    if config.peft_type != "LORA" or getattr(config, "target_parameters", None):
        return None
    for name, tensor in stored.items():
        layer, mark, rest = name.removeprefix(_PREFIX).rpartition(".lora_A.")
        if not mark or rest != "weight" or len(tensor.shape) != 2:
            continue
        pattern = config.rank_pattern or {}
        asked = pattern.get(get_pattern_key(list(pattern), layer), config.r)
        if isinstance(asked, int) and tensor.shape[0] != asked:
            return (
                f"{spelled_out(layer)} has rank {tensor.shape[0]} in the file and {asked} by the config; mend r or "
                "rank_pattern in its adapter_config.json"
            )
    return None


def _experts(stored: Mapping[str, Stored], config: PeftConfig, model: Any) -> str | None:
    """Pairs of single experts can only be carried to a base that has them in one matrix if there is one for each."""
    fused = any(name.endswith(".experts") and not hasattr(found, "0") for name, found in model.named_modules())
    text = model.config.get_text_config()
    counts = (getattr(text, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    asked = next((int(count) for count in counts if count), 0)
    held: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in stored:
        if expert := _EXPERT.match(name):
            held[expert[1], expert[3]].add(int(expert[2]))
    for (place, rest), numbers in held.items() if fused and asked else ():
        if numbers != set(range(asked)):
            lacking = sorted(set(range(asked)) - numbers)
            what = f"nothing for expert {lacking[0]}" if lacking else f"an expert {max(numbers)}"
            return (
                f"it holds {what} of {asked} in {spelled_out(place)} ({spelled_out(rest)}); it cannot be carried to a "
                "base that has all experts in one matrix, save or copy it again"
            )
    return None


def _other_vocabulary(stored: Mapping[str, Stored], model: Any) -> str | None:
    rows = int(model.get_input_embeddings().weight.shape[0])
    asked = _vocabulary(stored, model)
    if asked is None or asked == rows or resized_rows(stored, model):
        return None
    return (
        f"it was trained on a base whose vocabulary was resized to {asked} tokens, and this one has {rows}; load the "
        f"base, call resize_token_embeddings({asked}) as the trainer did, save it with the tokenizer, and name it "
        "with --base"
    )


def resized_rows(stored: Mapping[str, Stored], model: Any) -> int | None:
    """To how many tokens the base must be resized, where the adapter brings every row of both ends; else None."""
    rows, asked = int(model.get_input_embeddings().weight.shape[0]), _vocabulary(stored, model)
    if asked is None or asked == rows:
        return None
    ends = [_names(model, model.get_input_embeddings())]
    if not (model.all_tied_weights_keys or model.get_output_embeddings() is None):
        ends.append(_names(model, model.get_output_embeddings()))
    whole = all(any(stored[name].shape[0] == asked for name in names if name in stored) for names in ends)
    return asked if whole else None


def _names(model: Any, module: Any) -> list[str]:
    """Under which names PEFT may store a base's embedding or head."""
    name = next(name for name, found in model.named_modules() if found is module)
    inner = ("", ".base_layer", ".token_adapter.base_layer", ".original_module")
    return [f"{_PREFIX}{name}{part}.weight" for part in inner]


def _vocabulary(stored: Mapping[str, Stored], model: Any) -> int | None:
    ends: Iterable[Any] = filter(None, (model.get_input_embeddings(), model.get_output_embeddings()))
    for module in ends:
        names = _names(model, module)
        found = [stored[name].shape[0] for name in names if name in stored]
        factor = names[0].removesuffix(".weight")
        found += [stored[n].shape[1] for n in (f"{factor}.lora_embedding_A",) if n in stored]
        found += [stored[n].shape[0] for n in (f"{factor}.lora_B.weight",) if n in stored]
        if found:
            return int(found[0])
    return None
