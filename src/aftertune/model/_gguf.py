"""GGUF files, converted once to ordinary checkpoints: every tensor and every key of one is carried over or refused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aftertune.errors import SubjectError, spelled_out
from aftertune.model._checkpoint import read_checkpoint
from aftertune.model._explain import explain_reading
from aftertune.model._file_digest import content_digest
from aftertune.model._gguf_keys import architecture, key_fault
from aftertune.model._quiet import quiet_loading
from aftertune.runs import Progress, cache_root, explain_storage, new_folder

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
            f"{file}: {len(unread)} of its tensors are unread, as transformers has no place for them (first: "
            f"{spelled_out(unread[0])}); use the safetensors checkpoint"
        )


def _unread(reader: Any, model: Any) -> Iterable[str]:
    """Names of tensors that transformers' reader passes over without a word.

    Told in two ways that do not share code: by count (as many values in the file as in the model), and, where the
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
