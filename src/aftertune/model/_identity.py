"""Who a subject is: where it came from, and digests of all that decides its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aftertune.model._offloaded import stored_tensors
from aftertune.model._settings_digest import config_digest, tokenizer_digest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from aftertune.model._chat import Chat

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
