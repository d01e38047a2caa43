"""Adapters: what they say they sit on, how they are put on, and folding them into their base."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import AftertuneError, NumericalError, SubjectError, spelled_out
from aftertune.model._adapter_faults import file_fault, resized_rows
from aftertune.model._checkpoint import Stored, read_headers
from aftertune.model._identity import content_digest
from aftertune.model._libraries import explain_reading, is_shortage, quiet_loading, reason
from aftertune.model._spec import SubjectSpec, parse_spec

if TYPE_CHECKING:
    import torch
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
        """Keeps the whole report of PEFT's loading, which PEFT itself only shows in part."""

        loading: Any

        def load_adapter(self, *args: Any, **options: Any) -> Any:
            self.loading = super().load_adapter(*args, **options)
            return self.loading

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
    """Whether the base or the adapter is at fault, judged by PEFT's own message."""
    text = str(error)
    if "size mismatch" in text or "not found in the base model" in text or isinstance(error, KeyError):
        return f"does not fit its base ({reason(error)}); give the right one with --base"
    return f"cannot be put on its base ({reason(error)})"


def _refuse_unlike(adapted: Any, stored: dict[str, Stored], folder: Path) -> None:
    from peft import get_peft_model_state_dict

    # VB-LoRA's bank of vectors is one tensor, which every layer shows under a name of its own.
    lacking = [n for n in adapted.loading.missing_keys if "vblora_vector_bank" not in n or ".layers." not in n]
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
        for name in adapted.loading.unexpected_keys
        if not (".modules_to_save." in name and name.replace(".modules_to_save.", ".") in stored)
    ]
    if strangers:
        raise SubjectError(
            f"{folder}: {len(strangers)} adapter weights do not belong to the base (first: "
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


CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WHOLE = ("model.safetensors", "model.safetensors.index.json")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter folder.

    Raises:
        SubjectError: it is broken, the adapter's weights are missing or pickled, or a whole model lies beside it.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SubjectError(f"{path}: cannot be read ({reason(error)})") from None
    if not isinstance(config, dict):
        raise SubjectError(f"{path}: must hold a JSON object")
    whole = next((name for name in _WHOLE if (folder / name).is_file()), None)
    if (folder / WEIGHTS).exists():
        if whole and (folder / "config.json").is_file():
            raise SubjectError(
                f"{folder}: holds a whole model ({whole}) and an adapter ({WEIGHTS}); move one of them elsewhere"
            )
        return config
    if whole:
        raise SubjectError(f"{folder}: holds a whole model ({whole}) beside a leftover {CONFIG}; remove the {CONFIG}")
    if any(folder.glob("adapter_model*.bin")):
        raise SubjectError(f"{folder}: has no {WEIGHTS} (pickled .bin adapters are not loaded)")
    other = next((path.name for path in sorted(folder.glob("*.safetensors"))), None)
    hint = f", but {spelled_out(other)}, which is not PEFT's; convert it" if other else "; copy the adapter again"
    raise SubjectError(f"{folder}: has no {WEIGHTS}{hint}")


def adapter_base(folder: Path, config: dict[str, Any]) -> str:
    """The spec of the model an adapter sits on, from its config: a hub id with the revision that it was trained on.

    Raises:
        SubjectError: the config names none, or one that is not to be found.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        raise SubjectError(f"{folder}: its {CONFIG} names no base model; give one with --base")
    base, revision = str(base), config.get("revision")
    try:
        spec = parse_spec(base)
        if spec.kind == "hub" and revision and spec.revision is None:
            base = f"{base}@{revision}"
            spec = parse_spec(base)
    except SubjectError:
        raise _gone(folder, base, "no such folder here") from None
    if spec.kind == "hub":
        _refuse_unreachable(folder, spec)
    return base


def _gone(folder: Path, base: str, why: str) -> SubjectError:
    shown = spelled_out(base[:200])
    return SubjectError(f"{folder}: its base, {shown}, cannot be found ({why}); name it with --base")


def _refuse_unreachable(folder: Path, spec: SubjectSpec) -> None:
    """A path of another machine may read like a hub id; only the hub, or its cache, can tell."""
    from transformers.utils import cached_file

    try:
        cached_file(spec.location, "config.json", revision=spec.revision or "main")
    except Exception as error:  # of several libraries
        text = str(error)
        if "does not appear to have a file named" in text:
            return  # it is there; loading it says what it lacks
        why = "no folder here, and the hub has no such model or revision, or does not let you see it"
        if "connect" in text or "internet" in text:
            why = "neither a folder here nor in the cache of the hub, which cannot be reached"
        raise _gone(folder, spec.text, why) from None


def adapter_chain(spec: SubjectSpec, base: str | None = None) -> list[SubjectSpec]:
    """A subject and what lies beneath it: of an adapter its base, and the base of that, down to a whole model.

    Args:
        spec: the subject at the top; other kinds than adapters have nothing beneath them.
        base: its base, where one is given instead of the one in its config.

    Raises:
        SubjectError: the chain comes back to itself, through links too, or breaks off.
    """
    chain = [spec]
    seen: list[Path] = []
    while spec.kind == "adapter":
        folder = Path(spec.location)
        resolved = folder.resolve()
        if resolved in seen:
            raise SubjectError(
                f"{folder}: its chain of bases comes back to it ({_circle(seen, resolved)}); give the right one with "
                "--base"
            )
        seen.append(resolved)
        below = parse_spec(base or adapter_base(folder, read_adapter_config(folder)))
        if below.kind == "adapter" and Path(below.location).resolve() == resolved:
            raise SubjectError(f"{spec.text}: names itself as its base; give the right one with --base")
        chain.append(below)
        spec, base = below, None
    return chain


def _circle(seen: list[Path], resolved: Path) -> str:
    names = [path.name for path in seen[seen.index(resolved) :]]
    return " → ".join([*names, resolved.name])


def merge_adapter(
    model: Any, probe_ids: torch.Tensor, *, tolerance: float = 1e-2, where: object = "adapter"
) -> nn.Module:
    """Fold a PEFT adapter into its base, in fp32, and check the logits on ``probe_ids`` against unmerged.

    Where the adapter changes an end of a tie (an output head that is the embedding), the merged model has two
    matrices, and a config that says so.

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
        _untie(model)
        with explain_reading(where, "cannot be merged into its base", "name its base instead, or another adapter"):
            merged = model.merge_and_unload(safe_merge=True)
        _settle_ties(merged)
        after = merged(input_ids=probe_ids).logits
    difference = float((before - after).abs().max())
    if not difference <= tolerance:
        raise NumericalError(f"{where}: merging the adapter moved logits by {difference:.3g} (allowed {tolerance:g})")
    return merged  # type: ignore[no-any-return]


def _untie(model: Any) -> None:
    """Give every wrapped end of a tie a matrix of its own, so that merging does not move the other end too."""
    import torch

    base = model.get_base_model()
    seen: dict[int, int] = {}
    for parameter in _ends(base):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    for module in (base.get_output_embeddings(), base.get_input_embeddings()):
        layer = module.get_base_layer() if hasattr(module, "get_base_layer") else None
        if layer is not None and seen.get(id(layer.weight), 0) > 1:
            seen[id(layer.weight)] -= 1
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def _ends(base: Any) -> list[Any]:
    modules = filter(None, (base.get_input_embeddings(), base.get_output_embeddings()))
    inner = (module.get_base_layer() if hasattr(module, "get_base_layer") else module for module in modules)
    return [module.weight for module in inner if getattr(module, "weight", None) is not None]


def _settle_ties(merged: Any) -> None:
    """Let the config say what is: without this, saving drops one of two matrices, or loading ties them again."""
    ends = _ends(merged)
    if len(ends) == 2 and ends[0].data_ptr() != ends[1].data_ptr():
        for config in {id(c): c for c in (merged.config, merged.config.get_text_config())}.values():
            if getattr(config, "tie_word_embeddings", False):
                config.tie_word_embeddings = False
        merged.all_tied_weights_keys = merged.get_expanded_tied_weights_keys(all_submodels=True)
