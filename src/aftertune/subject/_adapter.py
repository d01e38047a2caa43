"""LoRA adapters: the scale that is claimed is the scale that runs, and merging loses nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import NumericalError, SubjectError
from aftertune.runs import file_digest
from aftertune.subject._explain import explain_reading

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter folder.

    Raises:
        SubjectError: it is broken, or the adapter's weights are missing or pickled.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise SubjectError(f"{path}: cannot be read (nested too deeply)") from None
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise SubjectError(f"{path}: must hold a JSON object")
    if not (folder / WEIGHTS).exists():
        raise SubjectError(f"{folder}: has no {WEIGHTS} (pickled .bin adapters are not loaded)")
    return config


def adapter_base(folder: Path, config: dict[str, Any]) -> str:
    """The spec of the model an adapter sits on, from its config.

    Raises:
        SubjectError: the config names none.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        raise SubjectError(f"{folder}: its {CONFIG} names no base model; give one with --base")
    return str(base)


def attach_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Put the adapter of ``folder`` onto ``model``, unmerged, and check that it fits.

    Raises:
        SubjectError: it cannot be read, was made for a model of other shapes, brings weights the model lacks, or
            is of a kind that puts tokens of its own before the prompt.
    """
    import warnings

    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    weights = folder / WEIGHTS
    with explain_reading(weights, "cannot be read", "copy the adapter again"), safe_open(weights, "pt") as file:
        stored = set(file.keys())
    with explain_reading(folder / CONFIG, "cannot be used"):
        config = PeftConfig.from_pretrained(folder)
    refuse_virtual_tokens({"default": config}, folder)
    misfit = explain_reading(folder, "the adapter does not fit its base", "give the right one with --base")
    with misfit, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, folder, config=config, is_trainable=False)
    missing = [str(w.message) for w in caught if "missing adapter keys" in str(w.message).lower()]
    if missing:
        raise SubjectError(f"{folder}: the adapter lacks weights for this base; give the right one with --base")
    _refuse_strangers(adapted, stored, folder)
    assert_scale(adapted, folder)
    return adapted  # type: ignore[no-any-return]


def refuse_virtual_tokens(configs: dict[str, Any], where: object) -> None:
    """Raise `SubjectError` for adapters that put tokens of their own before the prompt: positions would shift."""
    for config in configs.values():
        if config.is_prompt_learning:
            method = config.peft_type.value
            raise SubjectError(f"{where}: {method} puts tokens of its own before the prompt; use LoRA or the like")


def _refuse_strangers(model: Any, stored: set[str], folder: Path) -> None:
    from peft import get_peft_model_state_dict

    # Named as they are saved, which differs by method; embeddings saved alongside are the base's.
    own = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    strangers = sorted(name for name in stored - own if getattr(model.base_model, "prefix", "lora_") in name)
    if strangers:
        raise SubjectError(
            f"{folder}: {len(strangers)} adapter weights have no place in the base (first: {strangers[0]}); "
            "give the right one with --base"
        )


def adapter_facts(model: Any, folder: Path) -> dict[str, Any]:
    """Method, rank, alpha and scale of an attached adapter, and its weights' SHA-256, for the identity record."""
    config = model.peft_config["default"]
    facts: dict[str, Any] = {"method": config.peft_type.value, "sha256": file_digest(folder / WEIGHTS)}
    if config.peft_type == "LORA":
        stabilised = bool(config.use_rslora)
        facts |= {"rank": config.r, "alpha": config.lora_alpha, "rank_stabilised": stabilised, "scale": _scale(config)}
    return facts


def _scale(config: Any) -> float:
    return float(config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r))


def assert_scale(model: nn.Module, where: object) -> None:
    """Check every LoRA layer's scale: alpha/sqrt(r) when rank-stabilised (Kalajdzievski 2023), else alpha/r.

    Servers that ignore ``use_rslora`` run the adapter sqrt(r) times too weak.

    Raises:
        SubjectError: a layer runs at another scale than its config says.
    """
    configs = getattr(model, "peft_config", {})
    for name, module in model.named_modules():
        scaling = getattr(module, "scaling", None)
        if not isinstance(scaling, dict):
            continue
        for adapter, scale in scaling.items():
            config = configs.get(adapter)
            # Other methods scale by rules of their own; patterns give each layer its own rank or alpha.
            if config is None or config.peft_type != "LORA" or config.rank_pattern or config.alpha_pattern:
                continue
            if not math.isclose(scale, _scale(config), rel_tol=1e-6):
                raise SubjectError(
                    f"{where}: {name} runs its adapter at scale {scale:g}, its config says {_scale(config):g}"
                )


def merge_adapter(
    model: Any, probe_ids: torch.Tensor, *, tolerance: float = 1e-2, where: object = "adapter"
) -> nn.Module:
    """Fold a PEFT adapter into its base, in fp32, and check the logits on ``probe_ids`` against unmerged.

    Args:
        model: a `peft.PeftModel`. It is used up.
        probe_ids: token ids, shape (batch, length).
        tolerance: largest logit difference allowed.
        where: what to call the adapter in complaints.

    Raises:
        SubjectError: the weights are not fp32 (a bf16 merge moves logits by more than some fine-tunes do), or the
            base has no place for what the adapter adds.
        NumericalError: merged and unmerged logits differ by more than the tolerance.
    """
    import torch

    precisions = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if precisions != {torch.float32}:
        raise SubjectError(
            f"{where}: merging needs fp32 weights, these are {', '.join(map(str, precisions))}; use --dtype float32"
        )
    with torch.no_grad():
        before = model(input_ids=probe_ids).logits
        with explain_reading(where, "cannot be merged into its base", "name its base instead, or another adapter"):
            merged = model.merge_and_unload(safe_merge=True)
        after = merged(input_ids=probe_ids).logits
    difference = float((before - after).abs().max())
    if not difference <= tolerance:
        raise NumericalError(f"{where}: merging the adapter moved logits by {difference:.3g} (allowed {tolerance:g})")
    return merged  # type: ignore[no-any-return]
