"""Who a subject is: digests of its weights, files and settings.

A digest is kept under the cache folder with the file's size, times, inode and device, and counts only while all of
them are the same. The time of the last change of an inode cannot be set by hand, so that a file that was replaced or
written into is read again even where its size and modification time were kept.

The same weights under another ``rms_norm_eps``, rope base or vocabulary are another model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import AftertuneError, SubjectError
from aftertune.model._activations import steering
from aftertune.model._weights import stored_tensors
from aftertune.runs import file_digest, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from aftertune.model._chat import Chat


SMALL = 2**20
"""Bytes up to which a file is read each time."""
_SETTLED = 2 * 10**9  # nanoseconds; what changed more recently may change again within one tick of a coarse clock


def content_digest(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        SubjectError: it is no regular file, or cannot be read.
    """
    try:
        if not path.is_file():
            raise SubjectError(f"{path}: cannot be read ({'no regular file' if path.exists() else 'no such file'})")
        before = path.stat()
        if before.st_size <= SMALL:
            return file_digest(path)
        began, facts = time.time_ns(), _facts(before)
        kept = _kept_at(path)
        found = kept and _read(kept, facts)
        if found:
            return found
        digest = file_digest(path)
        settled = began - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED
        if kept and settled and _facts(path.stat()) == facts:
            _keep(kept, path, facts, digest)
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return digest


def _facts(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _kept_at(path: Path) -> Path | None:
    """Where the digest of a file is kept; None where there is no place for it."""
    from aftertune.runs import cache_root

    with contextlib.suppress(OSError, RuntimeError):  # no home, a loop of links
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        return cache_root() / "digests" / f"{name[:32]}.json"
    return None


def _read(kept: Path, facts: list[int]) -> str | None:
    """A kept digest of a file with these facts; whatever is wrong with the entry, the file is read again."""
    try:
        entry = json.loads(kept.read_text("utf-8"))
        digest = entry["sha256"]
        whole = entry["facts"] == facts and isinstance(digest, str) and len(bytes.fromhex(digest)) == 32
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return digest if whole else None


def _keep(kept: Path, path: Path, facts: list[int], digest: str) -> None:
    with contextlib.suppress(OSError, AftertuneError):  # a cache that cannot be written costs time, not the run
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"file": str(path), "facts": facts, "sha256": digest})


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

    It covers the model's class and configuration, how attention is computed, the tokens that end an answer, the
    configurations of adapters that run beside it (their scale is in no tensor), and vectors that steer it.
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
    if vectors := steering(model):
        settings["steering"] = [[layer, hashlib.sha256(_fp32(vector)).hexdigest()] for layer, vector in vectors]
    return _digest(settings)


def _fp32(vector: torch.Tensor) -> bytes:
    return vector.detach().float().cpu().contiguous().numpy().tobytes()


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


DIGESTS = {
    "weights_sha256": "weights",
    "config_sha256": "configuration",
    "tokenizer_sha256": "tokenizer",
    "template_sha256": "chat template",
}
"""The digests of an identity, and what each is of."""


@dataclass(frozen=True)
class Identity:
    """Recorded with everything a subject produced.

    Attributes:
        spec: the string it was named by.
        kind: "folder", "adapter", "gguf", "hub", "embedded" or "live".
        source: the resolved folder, file or hub id.
        revision: the hub commit of the model (of the base, for an adapter), where there is one.
        base: for an adapter, the spec of the model it sits on.
        adapter: for an adapter, its method and its weights' SHA-256; for LoRA rank, alpha and the asserted scale.
        weights_sha256: digest over names, shapes, types and values of all tensors.
        template_sha256: digest of the chat template.
        parameters: number of parameters.
        dtype: precision of the weights as run.
        patches: of a patched subject, the patches in force in their order: file name, SHA-256 of the file, operation,
            how many weights it touches, and how far it could be checked.
        config_sha256: digest of the settings that the forward pass reads; see `config_digest`.
        tokenizer_sha256: digest of the tokenizer; see `tokenizer_digest`.
    """

    spec: str
    kind: str
    source: str
    weights_sha256: str
    template_sha256: str
    parameters: int
    dtype: str
    revision: str | None = None
    base: str | None = None
    adapter: dict[str, Any] | None = None
    patches: list[dict[str, Any]] | None = None
    config_sha256: str | None = None
    tokenizer_sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @property
    def content(self) -> dict[str, Any]:
        """What decides a subject's numbers, wherever it came from and whatever it is called."""
        return {**{name: getattr(self, name) for name in DIGESTS}, "dtype": self.dtype}


def identify(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, chat: Chat, *, spec: str, kind: str, source: str,
    revision: str | None = None, base: str | None = None, adapter: dict[str, Any] | None = None,
    patches: list[dict[str, Any]] | None = None,
) -> Identity:  # fmt: skip
    """The identity of a model in memory, as it will run; see `Identity` for the arguments.

    Raises:
        SubjectError: a tensor is not in memory and cannot be read back.
    """
    return Identity(
        spec=spec,
        kind=kind,
        source=source,
        weights_sha256=weights_digest(model),
        template_sha256=chat.digest,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        revision=revision,
        base=base,
        adapter=adapter,
        patches=patches or None,
        config_sha256=config_digest(model),
        tokenizer_sha256=tokenizer_digest(tokenizer),
    )


def differing_digests(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """In what two identity records differ, in words: "weights", "configuration", "tokenizer", "chat template"."""
    return tuple(what for key, what in DIGESTS.items() if one.get(key) != other.get(key))


def weights_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the sorted names, shapes, types and bytes of a model's tensors.

    Tied tensors count once, under the first of their names. Tensors are read one at a time, those put aside on the
    CPU or on disk too.

    Raises:
        SubjectError: a tensor is not in memory and cannot be read back.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in stored_tensors(model):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.contiguous().view(-1).cpu()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
