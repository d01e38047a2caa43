"""LoRA adapters: the scale that is claimed is the scale that runs, and merging loses nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import NumericalError, SubjectError
from aftertune.runs import file_digest

if TYPE_CHECKING:
    import torch
    from torch import nn


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter folder.

    Raises:
        SubjectError: it is broken, or the adapter's weights are missing or pickled.
    """
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise SubjectError(f"{path}: must hold a JSON object")
    if not (folder / "adapter_model.safetensors").exists():
        raise SubjectError(f"{folder}: has no adapter_model.safetensors (pickled .bin adapters are not loaded)")
    return config


def adapter_base(folder: Path, config: dict[str, Any]) -> str:
    """The spec of the model an adapter sits on, from its config.

    Raises:
        SubjectError: the config names none.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        raise SubjectError(f"{folder}: its adapter_config.json names no base model; give one with --base")
    return str(base)


def attach_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Put the adapter of ``folder`` onto ``model``, unmerged, and check that it fits.

    Raises:
        SubjectError: the adapter was made for a model of other shapes, or brings weights the model lacks.
    """
    import warnings

    from peft import PeftModel

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[-1].strip()
        raise SubjectError(
            f"{folder}: the adapter does not fit its base ({reason}); give the right one with --base"
        ) from error
    missing = [str(w.message) for w in caught if "missing adapter keys" in str(w.message).lower()]
    if missing:
        raise SubjectError(f"{folder}: the adapter lacks weights for this base; give the right one with --base")
    _refuse_strangers(adapted, folder)
    assert_scale(adapted, folder)
    return adapted  # type: ignore[no-any-return]


def _refuse_strangers(model: nn.Module, folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        stored = set(file.keys())
    own = {name.replace(".default", "") for name in model.state_dict() if "lora_" in name}
    strangers = sorted(name for name in stored if "lora_" in name and name not in own)
    if strangers:
        raise SubjectError(
            f"{folder}: {len(strangers)} adapter weights have no place in the base (first: {strangers[0]}); "
            "give the right one with --base"
        )


def adapter_facts(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Method, rank, alpha and scale of an adapter config, and its weights' SHA-256, for the identity record."""
    facts: dict[str, Any] = {
        "method": config.get("peft_type"),
        "sha256": file_digest(folder / "adapter_model.safetensors"),
    }
    if config.get("peft_type") == "LORA":
        rank, alpha, stabilised = config["r"], config["lora_alpha"], bool(config.get("use_rslora"))
        facts |= {"rank": rank, "alpha": alpha, "rank_stabilised": stabilised}
        facts["scale"] = alpha / math.sqrt(rank) if stabilised else alpha / rank
    return facts


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
            if config is None or getattr(config, "rank_pattern", None) or getattr(config, "alpha_pattern", None):
                continue
            divisor = math.sqrt(config.r) if config.use_rslora else config.r
            if not math.isclose(scale, config.lora_alpha / divisor, rel_tol=1e-6):
                raise SubjectError(
                    f"{where}: {name} runs its adapter at scale {scale:g}, its config says "
                    f"{config.lora_alpha / divisor:g}"
                )


def merge_adapter(model: Any, probe_ids: torch.Tensor, *, tolerance: float = 1e-2) -> nn.Module:
    """Fold a PEFT adapter into its base, in fp32, and check the logits on ``probe_ids`` against unmerged.

    Args:
        model: a `peft.PeftModel`. It is used up.
        probe_ids: token ids, shape (batch, length).
        tolerance: largest logit difference allowed.

    Raises:
        SubjectError: the weights are not fp32 (a bf16 merge moves logits by more than some fine-tunes do).
        NumericalError: merged and unmerged logits differ by more than the tolerance.
    """
    import torch

    precisions = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if precisions != {torch.float32}:
        raise SubjectError(
            f"merging needs fp32 weights, these are {', '.join(map(str, precisions))}; use --dtype float32"
        )
    with torch.no_grad():
        before = model(input_ids=probe_ids).logits
        merged = model.merge_and_unload(safe_merge=True)
        after = merged(input_ids=probe_ids).logits
    difference = float((before - after).abs().max())
    if not difference <= tolerance:
        raise NumericalError(f"merging the adapter moved logits by {difference:.3g} (allowed {tolerance:g})")
    return merged  # type: ignore[no-any-return]
