"""From a spec to a subject in memory, and to a folder again. safetensors only; no remote code unless asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import NumericalError, OutputError, SubjectError
from aftertune.model._activations import steering
from aftertune.model._adapter import (
    adapter_base,
    adapter_chain,
    adapter_facts,
    attach_adapter,
    merge_adapter,
    read_adapter_config,
    refuse_virtual_tokens,
)
from aftertune.model._chat import Chat, embedding_rows, read_template, refuse_foreign_tokens
from aftertune.model._checkpoint import Stored, read_checkpoint, refuse_packed, refuse_unread
from aftertune.model._embedded import embedded_folder
from aftertune.model._gguf import converted_gguf
from aftertune.model._identity import identify
from aftertune.model._libraries import explain_reading, no_bars, quiet_loading
from aftertune.model._patch_file import apply_patches
from aftertune.model._spec import SubjectSpec, parse_spec
from aftertune.model._subject import Placement, Subject, resolve_device, resolve_dtype
from aftertune.model._weights import stored_parameters
from aftertune.runs import Progress, Silent, new_folder, require_regular_inside

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    spec: str | Path,
    *,
    base: str | None = None,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    placement: Placement | None = None,
    merge: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Subject:
    """Load the subject that ``spec`` names.

    Args:
        spec: a model folder, a LoRA adapter folder, a .gguf file, ``owner/name[@revision]`` or "smollm2"; then patch
            files, each after a ``+``, which are verified and applied in order.
        base: for an adapter, the spec of its base instead of the one in its config.
        tokenizer: a folder or hub id (``owner/name[@revision]``) to take the tokenizer from.
        chat_template: a Jinja file, or "plain", instead of the tokenizer's own.
        placement: device, dtype and batch bound; chosen for this machine where left out.
        merge: fold an adapter into its base (in fp32, checked) instead of running it beside; always done to an
            adapter that is patched.
        trust_remote_code: run model code that comes with the checkpoint. Off unless you know the code.
        progress: shows downloads and conversions.

    Raises:
        SubjectError: it cannot be found, lacks a tokenizer or template, or does not fit its base.
        PatchError: a patch is damaged, or was made for other weights.
        NumericalError: its weights hold NaN or infinity.
        MemoryExhausted: it does not fit in memory.
    """
    parsed = pinned(parse_spec(spec))
    placement = placement or Placement()
    progress = progress or Silent()
    if base is not None and parsed.kind != "adapter":
        base = None  # only an adapter has one
    if parsed.kind == "adapter":
        folder = Path(parsed.location)
        adapter_chain(parsed, base)
        base = base or adapter_base(folder, read_adapter_config(folder))
        base_spec = pinned(parse_spec(base))
        refuse_packed(base_spec, beneath=folder)
        if base_spec.kind == "adapter":  # tuned on top of another adapter: fold that one in first
            below = load(base, placement=placement, merge=True, trust_remote_code=trust_remote_code, progress=progress)
            model, commit = below.model, below.identity.revision
        else:
            model, commit = _load_model(base_spec, placement, trust_remote_code, progress), _commit(base_spec)
            apply_patches(model, base_spec.patches, progress)
        model = attach_adapter(model, folder)
        facts: dict[str, Any] | None = adapter_facts(model, folder)
    else:
        model, commit = _load_model(parsed, placement, trust_remote_code, progress), _commit(parsed)
        facts = None
    refuse_broken_weights(model, parsed.text)
    source, revision = _tokenizer_source(parsed, base, progress)
    if tokenizer is not None:
        name, _, tag = tokenizer.partition("@")
        require_regular_inside(tokenizer)
        source, revision = (tokenizer, None) if Path(tokenizer).is_dir() else (name, tag or None)
    tok = load_tokenizer(source, parsed.text, revision, trust_remote_code)
    chat = Chat(tok, read_template(chat_template), parsed.text)
    refuse_foreign_tokens(chat, embedding_rows(model), parsed.text)
    for note in chat.notes:
        progress.say(note)
    if parsed.kind == "adapter" and (merge or parsed.patches):
        import torch

        ids = torch.tensor([chat.encode("Which of these two is heavier?")], device=model.device)
        model = merge_adapter(model, ids, where=parsed.unpatched)
    patches = apply_patches(model, parsed.patches, progress)
    model.eval()
    identity = identify(
        model,
        tok,
        chat,
        spec=parsed.text,
        kind=parsed.kind,
        source=_files(parsed, progress),
        revision=commit,
        base=base,
        adapter=facts,
        patches=patches,
    )
    return Subject(model, tok, chat, identity, placement.max_batch_tokens or 0)


def as_subject(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "live") -> Subject:
    """A subject from a model already in memory.

    Args:
        model: any causal language model of transformers or PEFT.
        tokenizer: its tokenizer, with a chat template.
        name: what to call it in records.

    Raises:
        SubjectError: it has no chat template, or an adapter that puts tokens before the prompt.
        NumericalError: its weights hold NaN or infinity.
    """
    refuse_virtual_tokens(getattr(model, "peft_config", {}), name)
    chat = Chat(tokenizer, None, name)
    refuse_foreign_tokens(chat, embedding_rows(model), name)
    refuse_broken_weights(model, name)
    model.eval()
    identity = identify(model, tokenizer, chat, spec=name, kind="live", source=name)
    return Subject(model, tokenizer, chat, identity)


def refuse_broken_weights(model: torch.nn.Module, name: str) -> None:
    """Raise `NumericalError` when a weight is NaN or infinite."""
    for parameter, weight in stored_parameters(model):
        tensor = weight
        if "vblora_logits" in parameter:
            tensor = tensor.clamp(min=-1.0)  # VB-LoRA gives minus infinity to the vectors that it did not choose
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NumericalError(
                f"{name}: the weights hold NaN or infinity (first in {parameter}); the checkpoint is broken"
            )


def pinned(spec: SubjectSpec) -> SubjectSpec:
    """A hub spec with its revision resolved to a commit, so that all files are of one state of the repository."""
    if spec.kind != "hub":
        return spec
    from transformers.utils.hub import resolve_revision

    # Still a string that reads as it was given; fetching the files reports what cannot be resolved.
    return replace(spec, revision=resolve_revision(spec.location, spec.revision))


def _commit(spec: SubjectSpec) -> str | None:
    return getattr(spec.revision, "resolved", spec.revision)


def _files(spec: SubjectSpec, progress: Progress) -> str:
    if spec.kind == "embedded":
        return str(embedded_folder(progress))
    if spec.kind == "gguf":
        return str(converted_gguf(Path(spec.location), progress))
    return spec.location


def _tokenizer_source(spec: SubjectSpec, base: str | None, progress: Progress) -> tuple[str, str | None]:
    """Where a subject's tokenizer is: folder or hub id, and revision. An adapter without one has its base's."""
    if spec.kind != "adapter":
        return _files(spec, progress), spec.revision
    folder = Path(spec.location)
    if (folder / "tokenizer_config.json").exists():
        return str(folder), None
    below = base or adapter_base(folder, read_adapter_config(folder))
    return _tokenizer_source(parse_spec(below), None, progress)


def _load_model(spec: SubjectSpec, placement: Placement, trust: bool, progress: Progress) -> PreTrainedModel:
    device = resolve_device(placement.device)
    dtype = resolve_dtype(placement.dtype, device)
    source = _files(spec, progress)
    refuse_packed(spec)
    if spec.kind == "hub":
        refuse_hub_adapter(spec)
        stored: dict[str, Stored] = {}
    else:
        refuse_pickles(Path(source))
        stored = read_checkpoint(Path(source), explicit_weights(Path(source)))
    with explain_reading(spec.text, "cannot be loaded", _hub_hint(spec)), quiet_loading():
        model, report = _open(
            source,
            revision=spec.revision or "main",
            dtype=dtype,
            device_map="auto" if device == "auto" else None,
            use_safetensors=True,
            trust_remote_code=trust,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name and size
        )
    if spec.kind == "hub":
        stored = _fetched(spec)
    refuse_unread(model, report, stored, spec.text)
    if getattr(model, "is_quantized", False):
        raise SubjectError(f"{spec.text}: packed quantised weights cannot be studied; use the unquantised checkpoint")
    with explain_reading(spec.text, f"cannot be moved to {device}"):
        loaded: PreTrainedModel = model if device == "auto" else model.to(device)
    return loaded


def explicit_weights(folder: Path) -> str | None:
    """The weights that a config names in place of ``model.safetensors``, if it does."""
    try:
        named = json.loads((folder / "config.json").read_text("utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # transformers says what is wrong with it
    return named if isinstance(named, str) else None


def _fetched(spec: SubjectSpec) -> dict[str, Stored]:
    """The tensors of a hub model, from the files that were just read."""
    from transformers.utils import cached_file

    with explain_reading(spec.text, "cannot be loaded", _hub_hint(spec)):
        config = cached_file(spec.location, "config.json", revision=spec.revision or "main")
    folder = Path(str(config)).parent
    return read_checkpoint(folder, explicit_weights(folder))


def _open(source: str, **options: Any) -> Any:
    """The model with attention that takes our masks, which flash kernels do not: fused where there is such a one."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa", **options)
    except (ValueError, ImportError):  # not for this architecture, which may have no attention at all
        return AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager", **options)


def refuse_hub_adapter(spec: SubjectSpec) -> None:
    """Refuse a hub id of an adapter, which transformers would put on its base without a check.

    Raises:
        SubjectError: it is one.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(spec.location, revision=spec.revision or "main")
    except Exception:  # loading the model reports what cannot be reached
        return
    if found:
        raise SubjectError(
            f"{spec.text}: an adapter, or a model with one beside it; fetch it (hf download {spec.location} "
            "--local-dir FOLDER) and name the folder"
        )


def refuse_pickles(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        pickled = next(iter(sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])), None)
        what = f"only pickled weights ({pickled.name})" if pickled else "no weights"
        raise SubjectError(f"{folder}: holds {what}; save it as safetensors")


def load_tokenizer(source: str, name: str, revision: str | None, trust: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    path = Path(source)
    if path.is_dir() and not any((path / f).exists() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise SubjectError(f"{name}: the folder has no tokenizer; give one with --tokenizer")
    with explain_reading(name, "its tokenizer cannot be loaded", "give one with --tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision or "main", trust_remote_code=trust
        )
    return tokenizer


def _hub_hint(spec: SubjectSpec) -> str:
    return "check the spelling, or your connection to the Hugging Face hub" if spec.kind == "hub" else ""


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights (safetensors) and tokenizer to ``folder``, which must not exist.

    Raises:
        OutputError: the folder exists or may not be written, or a vector steers the model, which no checkpoint holds.
        StorageError: no space; nothing is left behind.
    """
    if folder.exists():
        raise OutputError(f"{folder}: exists; models are never overwritten, choose another --out")
    if steering(model):
        raise OutputError(f"{folder}: a steering vector acts while a model runs; it cannot be saved with the weights")
    with new_folder(folder) as made:
        with no_bars():
            model.save_pretrained(made, safe_serialization=True)
        tokenizer.save_pretrained(made)
