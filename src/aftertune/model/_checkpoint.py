"""Checkpoint folders: every tensor on disk is read, or the folder is refused.

transformers reads what its class asks for and warns of the rest. Here its warnings are errors.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aftertune.errors import SubjectError, spelled_out
from aftertune.model._libraries import explain_reading
from aftertune.model._spec import SubjectSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# transformers can unpack these to plain weights as it loads them.
_UNPACKED = {"mxfp4", "fp8", "fbgemm_fp8"}


def refuse_packed(spec: SubjectSpec, beneath: Path | None = None) -> None:
    """Refuse a model whose config says that its weights are packed (4-bit, 8-bit).

    Args:
        spec: the model.
        beneath: the adapter that sits on it, if it is the base of one.

    Raises:
        SubjectError: they are.
    """
    settings = _config(spec).get("quantization_config")
    if not isinstance(settings, dict) or not settings or settings.get("quant_method") in _UNPACKED:
        return
    method = spelled_out(str(settings.get("quant_method", "unnamed")))[:40]
    bits = next((n for n, key in ((4, "load_in_4bit"), (8, "load_in_8bit")) if settings.get(key)), settings.get("bits"))
    packed = f"packed quantised weights ({method}{f', {bits}-bit' if bits else ''})"
    if beneath is None:
        raise SubjectError(f"{spec.text}: {packed} cannot be studied; use the unquantised checkpoint")
    raise SubjectError(
        f"{beneath}: its base, {spec.text}, has {packed}, which cannot be studied; give the unquantised one with --base"
    )


def _config(spec: SubjectSpec) -> dict[str, Any]:
    """A model's ``config.json``, or nothing where there is none to read; its loader says what is wrong."""
    from transformers.utils import cached_file

    if spec.kind not in ("folder", "hub"):
        return {}
    try:
        path = (
            Path(spec.location) / "config.json"
            if spec.kind == "folder"
            else Path(str(cached_file(spec.location, "config.json", revision=spec.revision or "main")))
        )
        config = json.loads(path.read_text("utf-8"))
    except Exception:  # the file's faults and the hub's
        return {}
    return config if isinstance(config, dict) else {}


SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"^model-\d+-of-\d+\.safetensors$")
_DISTRIBUTED = re.compile(r"^shard-\d+-model-\d+-of-\d+\.safetensors$")
_MASK = re.compile(r"\.attn(\.attention)?\.(masked_)?bias$|\.attention\.(masked_)?bias$")
_FREQUENCIES = re.compile(r"(rotary|rope)\w*\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$")
_LAYER = re.compile(r"^(.*\blayers\.\d+)\.")
# What the layers of multi-token prediction have and others have not (DeepSeek-V3 and those after it).
_PREDICTS_FURTHER = ("eh_proj", "enorm", "hnorm", "shared_head", "mtp")


class Stored(NamedTuple):
    """A tensor in a file: its shape, and its type as safetensors spells it ("F32", "BF16", "U8")."""

    shape: tuple[int, ...]
    dtype: str


def read_headers(path: Path) -> dict[str, Stored]:
    """Names, shapes and types of the tensors of a safetensors file; no tensor is read.

    Raises:
        SubjectError: the file is damaged or cut short.
    """
    from safetensors import safe_open

    with explain_reading(path, "cannot be loaded", "copy it again"), safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in list(file.keys())}
        return {name: Stored(tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}


def read_checkpoint(folder: Path, explicit: str | None = None) -> dict[str, Stored]:
    """All tensors of a checkpoint folder, after a look whether its files belong together.

    Args:
        folder: with one ``model.safetensors``, or shards and their index.
        explicit: the file or index that the config names (``transformers_weights``) in place of these.

    Raises:
        SubjectError: an old file, an adapter or a distributed checkpoint lies beside the model; a shard is absent,
            lacks what the index promises, is not in the index or is damaged; a tensor is in two shards or has no
            values.
    """
    _refuse_other_weights(folder)
    single, index = folder / SINGLE, folder / INDEX
    if explicit is not None:
        single, index = (folder / "", folder / explicit) if explicit.endswith(".json") else (folder / explicit, index)
    shards = sorted(path.name for path in folder.glob("*.safetensors") if _SHARD.match(path.name))
    promised = _read_index(index) if index.is_file() else {}
    if single.is_file():
        strangers = sorted(set(promised.values()) - {single.name}) or shards
        if strangers and explicit is None:
            what = f"an index of other shards ({INDEX})" if promised else f"shards without an index ({strangers[0]})"
            raise SubjectError(
                f"{folder}: holds {SINGLE} beside {what}, and only one of the two would be read; remove the stale one"
            )
        return _with_values({single.name: read_headers(single)}, folder)
    if not promised:
        if shards:
            raise SubjectError(f"{folder}: cannot be loaded (has shards, but no {INDEX}); copy it again")
        return {}
    files = sorted(set(promised.values()))
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise SubjectError(f"{folder}: cannot be loaded ({absent[0]}, which its index names, is absent); copy it again")
    left_over = sorted(set(shards) - set(files))
    if left_over:
        raise SubjectError(
            f"{folder}: {left_over[0]} is not in {INDEX}, so it would not be read; remove the one that is stale"
        )
    held = {name: read_headers(folder / name) for name in files}
    for tensor, file in promised.items():
        if tensor not in held[file]:
            raise SubjectError(
                f"{folder}: {file} lacks {spelled_out(tensor)}, which the index places there; it is damaged or "
                "incomplete"
            )
    return _with_values(held, folder)


def _refuse_other_weights(folder: Path) -> None:
    """Files beside a model that transformers would take in its place, or that say that it is not the whole of it."""
    for path in sorted(folder.glob("*.safetensors")):
        if _DISTRIBUTED.match(path.name):
            raise SubjectError(
                f"{folder}: {path.name} is part of a distributed checkpoint; gather it, and save it as one model"
            )
        if path.name == "adapter_model.safetensors":
            raise SubjectError(
                f"{folder}: an adapter's {path.name} lies beside the model and would not be read; move it to a folder "
                "of its own, with its adapter_config.json"
            )


def _read_index(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_text("utf-8"))["weight_map"]
        if not all(isinstance(name, str) and Path(name).name == name for name in places.values()):
            raise ValueError("a shard's name is no file name")
        return dict(places)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SubjectError(f"{path}: cannot be loaded as an index of shards ({error}); copy it again") from None


def _with_values(files: Mapping[str, Mapping[str, Stored]], folder: Path) -> dict[str, Stored]:
    together: dict[str, Stored] = {}
    for file, tensors in files.items():
        for name, stored in tensors.items():
            if name in together:
                raise SubjectError(f"{folder}: {spelled_out(name)} is in two shards; only one of them would be read")
            if not math.prod(stored.shape):
                raise SubjectError(
                    f"{folder}: {spelled_out(name)} in {file} has size 0 (ZeRO-3 saves such where the weights were "
                    "not gathered); save the model again"
                )
            together[name] = stored
    return together


def refuse_unread(model: PreTrainedModel, report: Mapping[str, Any], stored: Mapping[str, Stored], where: str) -> None:
    """Refuse a checkpoint whose tensors are not one by one the weights that run.

    Args:
        model: as loaded, with mismatched sizes let pass.
        report: what transformers says of the loading: keys missing, unexpected and mismatched.
        stored: the tensors on disk.
        where: what to call the checkpoint.

    Raises:
        SubjectError: weights are lacking, of another shape or of whole numbers, or tensors would not be read.
    """
    if report.get("missing_keys"):
        first, others = sorted(report["missing_keys"])[0], sorted(report.get("unexpected_keys", ()))
        held = f", but holds {len(others)} unknown ones (first: {spelled_out(others[0])})" if others else ""
        raise SubjectError(f"{where}: the checkpoint lacks weights (first: {first}){held}; it is damaged or incomplete")
    if report.get("mismatched_keys"):
        name, *shapes = sorted(report["mismatched_keys"])[0][:3]
        there, asked = (tuple(shape) for shape in shapes)
        raise SubjectError(
            f"{where}: cannot be loaded ({spelled_out(name)} has shape {there} in the file, the config asks for "
            f"{asked}); the config is not this checkpoint's"
        )
    strangers = (name for name in report.get("unexpected_keys", ()) if not _is_buffer(name, model, stored))
    unread = sorted({*strangers, *_ignored_layers(model, stored), *_doubles(model, stored)})
    if unread:
        raise SubjectError(f"{where}: {_unread(unread)}")
    for name, tensor in _whole_numbers(model, stored):
        raise SubjectError(
            f"{where}: {spelled_out(name)} is stored as {tensor.dtype}: packed quantised weights cannot be studied; "
            "use the unquantised checkpoint"
        )
    _refuse_broken_tie(model, where)


def _unread(names: list[str]) -> str:
    first = spelled_out(names[0])
    line = f"{len(names)} tensors of the checkpoint are unread: its config does not ask for them (first: {first}); "
    if any("lora_" in name or "modules_to_save" in name or ".base_layer." in name for name in names):
        return line + "an adapter lies unmerged in it: save it as an adapter, or merge it"
    if any("scale" in name.rpartition(".")[2] or "qweight" in name or "absmax" in name for name in names):
        return line + "it is packed or quantised: use the unquantised checkpoint"
    wrappers = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
    if any(name.startswith(wrappers) for name in names):
        return line + "its names carry the prefix of a wrapper (torch.compile, DDP, FSDP): save the model inside it"
    return line + "mend the config or the checkpoint, so that they belong together"


def _is_buffer(name: str, model: PreTrainedModel, stored: Mapping[str, Stored]) -> bool:
    """Whether a tensor is one that older versions stored though it follows from the config: masks, frequencies."""
    prefix = f"{model.base_model_prefix}."
    names = (name, name.removeprefix(prefix), prefix + name)
    made = {buffer for buffer, _ in model.named_buffers()}
    if any(candidate in made for candidate in names):
        return True
    held = next((stored[candidate] for candidate in names if candidate in stored), None)
    if held is None:
        return False
    if _MASK.search(name):  # of a real bias the shape is (width,)
        return len(held.shape) == 4 or math.prod(held.shape) == 1
    if name.endswith("position_ids"):
        return held.dtype.startswith("I")
    return bool(_FREQUENCIES.search(name)) and not name.endswith("weight")


def _ignored_layers(model: PreTrainedModel, stored: Mapping[str, Stored]) -> Iterable[str]:
    """Whole layers that the class may leave out as multi-token prediction, but that do not look like it."""
    patterns = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    have, layers = set(model.state_dict()), defaultdict(list)
    for name in stored:
        layer = _LAYER.match(name)
        if layer and name not in have and any("layers" in p.pattern and p.search(name) for p in patterns):
            layers[layer[1]].append(name)
    for names in layers.values():
        if not any(mark in name for name in names for mark in _PREDICTS_FURTHER):
            yield from names


def _doubles(model: PreTrainedModel, stored: Mapping[str, Stored]) -> Iterable[str]:
    """Tensors under two names of one weight, with and without the model's prefix: one of them is not read."""
    prefix = f"{model.base_model_prefix}."
    have = set(model.state_dict())
    return (name for name in stored if prefix + name in stored and prefix + name in have and name not in have)


def _whole_numbers(model: PreTrainedModel, stored: Mapping[str, Stored]) -> Iterable[tuple[str, Stored]]:
    state, prefix = model.state_dict(), f"{model.base_model_prefix}."
    for name, tensor in stored.items():
        weight = state.get(name, state.get(prefix + name))
        if weight is not None and weight.is_floating_point() and tensor.dtype.startswith(("I", "U", "BOOL")):
            yield name, tensor


def _refuse_broken_tie(model: PreTrainedModel, where: str) -> None:
    """Two tensors that the config ties run as two if they differ; other loaders take the first alone."""
    asked = model.get_expanded_tied_weights_keys(all_submodels=True)
    for target in sorted(set(asked) - set(getattr(model, "all_tied_weights_keys", asked))):
        raise SubjectError(
            f"{where}: holds {target} beside {asked[target]} with other values, though its config ties the two; set "
            "tie_word_embeddings to false in config.json if both are meant"
        )
