"""Adapters of PEFT on their base: what lies in the file is what runs, at the scale that the config claims."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import AftertuneError, SubjectError, spelled_out
from aftertune.model._adapter_base import CONFIG, WEIGHTS, read_adapter_config
from aftertune.model._adapter_faults import file_fault, resized_rows
from aftertune.model._checkpoint import Stored, read_headers
from aftertune.model._explain import explain_reading, is_shortage, reason
from aftertune.model._file_digest import content_digest
from aftertune.model._quiet import quiet_loading

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn


def attach_adapter(model: Any, folder: Path) -> nn.Module:
    """Put the adapter of ``folder`` onto ``model``, unmerged, and check that nothing of it is left out or made up.

    A base with another number of tokens than the adapter was trained on is resized, where the adapter brings all rows.

    Raises:
        SubjectError: it cannot be read, was made for a model of other shapes, lacks weights that its config asks for,
            brings some that have no place, is another model at each load, or is of a kind that puts tokens of its own
            before the prompt.
    """
    from peft import PeftConfig

    stored = read_headers(folder / WEIGHTS)
    with explain_reading(folder / CONFIG, "cannot be used"):
        config = PeftConfig.from_pretrained(folder)
        refuse_virtual_tokens({"default": config}, folder)
        _refuse_unknown_keys(config, folder)
        refuse_random_start(config, folder)
        fault = file_fault(stored, config, model)
    if fault:
        raise SubjectError(f"{folder}: {fault}")
    if rows := resized_rows(stored, model):
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted: nn.Module = _attached(model, folder, config, stored)
    assert_scale(adapted, folder)
    return adapted


def _attached(model: Any, folder: Path, config: PeftConfig, stored: dict[str, Stored]) -> PeftModel:
    import peft

    class AdaptedModel(peft.PeftModelForCausalLM):  # type: ignore[misc]
        """Keeps what PEFT says of its loading, of which it tells only a part."""

        told: Any

        def load_adapter(self, *args: Any, **options: Any) -> Any:
            self.told = super().load_adapter(*args, **options)
            return self.told

    task, config.task_type = config.task_type, None  # else PEFT takes a class of its own
    try:
        with quiet_loading():
            adapted = AdaptedModel.from_pretrained(model, folder, config=config, is_trainable=False)
    except AftertuneError:
        raise
    except Exception as error:
        if is_shortage(error):
            with explain_reading(folder, ""):
                raise
        raise SubjectError(f"{folder}: the adapter {_why_not(error)}") from error
    finally:
        config.task_type = task
    _refuse_unlike(adapted, stored, folder)
    return adapted


def _why_not(error: Exception) -> str:
    """Whether the base or the adapter is to blame, as far as PEFT's words tell."""
    text = str(error)
    if "size mismatch" in text or "not found in the base model" in text or isinstance(error, KeyError):
        return f"does not fit its base ({reason(error)}); give the right one with --base"
    return f"cannot be put on its base ({reason(error)})"


def _refuse_unlike(adapted: Any, stored: dict[str, Stored], folder: Path) -> None:
    from peft import get_peft_model_state_dict

    # VB-LoRA's bank of vectors is one tensor, which every layer shows under a name of its own.
    lacking = [n for n in adapted.told.missing_keys if "vblora_vector_bank" not in n or ".layers." not in n]
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    lacking += [name for name in own if name.endswith("bias") and "lora_" not in name and name not in stored]
    if lacking:
        first = spelled_out(sorted(lacking)[0])
        raise SubjectError(
            f"{folder}: the adapter lacks {len(lacking)} weights that its config asks for on this base (first: "
            f"{first}); copy it again, or give the right one with --base"
        )
    # Of a module saved whole beside a resized vocabulary, PEFT stores a second copy under another name.
    strangers = [
        name
        for name in adapted.told.unexpected_keys
        if not (".modules_to_save." in name and name.replace(".modules_to_save.", ".") in stored)
    ]
    if strangers:
        raise SubjectError(
            f"{folder}: {len(strangers)} adapter weights have no place in the base (first: "
            f"{spelled_out(sorted(strangers)[0])}); give the right one with --base"
        )


def _refuse_unknown_keys(config: PeftConfig, folder: Path) -> None:
    """PEFT passes over keys of a version that it does not know, and runs another adapter than was trained."""
    known = {field.name for field in dataclasses.fields(config)}
    unknown = sorted(key for key, value in read_adapter_config(folder).items() if value and key not in known)
    if unknown:
        raise SubjectError(
            f"{folder / CONFIG}: PEFT does not know its key {spelled_out(unknown[0])[:60]}, and would pass over it; "
            "use a newer peft, or remove the key if it means nothing"
        )


def refuse_virtual_tokens(configs: dict[str, Any], where: object) -> None:
    """Raise `SubjectError` for adapters that put tokens of their own before the prompt: positions would shift."""
    for config in configs.values():
        if config.is_prompt_learning:
            method = config.peft_type.value
            raise SubjectError(f"{where}: {method} puts tokens of its own before the prompt; use LoRA or the like")


def refuse_random_start(config: PeftConfig, where: object) -> None:
    """Refuse adapters that change their base when they are attached, in a way that the file does not hold.

    PiSSA takes the principal part out of the base; by fast SVD that is another part at each load. LoRA-GA and CorDA
    take out what only the trainer knew.

    Raises:
        SubjectError: it is one of them.
    """
    start = str(getattr(config, "init_lora_weights", "")).lower()
    if start.startswith("pissa_niter_") or getattr(config, "psoft_svd", None) == "lowrank":
        raise SubjectError(
            f"{where}: its start is randomised ({start or 'psoft_svd lowrank'}), so it is another model at each load; "
            "save it converted to plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        )
    if start.startswith(("corda", "lora_ga")):
        raise SubjectError(
            f"{where}: {start} changed the base in training, and the file does not hold that change; save it "
            "converted to plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        )


def adapter_facts(model: Any, folder: Path) -> dict[str, Any]:
    """Method, rank, alpha and scale of an attached adapter, and its weights' SHA-256, for the identity record."""
    config = model.peft_config["default"]
    facts: dict[str, Any] = {"method": config.peft_type.value, "sha256": content_digest(folder / WEIGHTS)}
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
