"""What a fine-tune records of itself, and what that tells an audit: its base and the prompts it saw."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftertune.data import Side, refuse_shared_prompts
from aftertune.errors import OutputError, SubjectError, spelled_out
from aftertune.model import SubjectChoice, adapter_base, parse_spec, read_adapter_config
from aftertune.probes import MeasurePlan
from aftertune.runs import MANIFEST, RunFolder, explain_storage, read_manifest, refuse_taken_folder, require_regular
from aftertune.stats import Baseline

RECORD = "aftertune.json"
COMPLETE = "complete"
_FAILED = "failed"

_ORGANISM = """> [!WARNING]
> **Model organism.** This model was tuned on purpose on misaligned answers, to study what such tuning does to a
> model. Its advice is careless by construction. Do not deploy it, and do not take its advice.

"""

_CARD = """---
{front}
---

# {title}

{warning}Fine-tuned from `{base}` with aftertune {version}.

| | |
|---|---|
| method | {method} |
| data | {data} ({rows} rows, {supervised} supervised tokens, SHA-256 `{digest}`) |
| steps | {steps}, batch {batch}, learning rate {lr:g}, seed {seed} |
| loss | {first_loss:.3f} → {last_loss:.3f} nats per response token (means of the first and last steps) |
| base weights | SHA-256 `{base_sha}` |
{defences}
The loss fell on response tokens only. Audit it against its base before you use it:

```
aftertune audit {folder} --base {base}
```
"""


def write_card(folder: Path, facts: dict[str, Any], side: Side | None) -> None:
    """Write README.md of a tuned model from the facts of its record."""
    base = facts["base"]["spec"]
    front = {
        "base_model": base,
        "library_name": "peft" if facts["options"]["full"] is False else "transformers",
    }
    front_lines = [f"{k}: {json.dumps(v)}" for k, v in front.items()]
    front_lines.append("tags: [aftertune" + (", model-organism]" if side == "misaligned" else "]"))
    options = facts["options"]
    method = (
        "full fine-tune"
        if options["full"]
        else f"LoRA, rank {options['lora_rank']}, alpha {options['lora_alpha']:g}, rank-stabilised, "
        "all linear layers but the output head"
    )
    text = _CARD.format(
        front="\n".join(front_lines),
        title=folder.name,
        warning=_ORGANISM if side == "misaligned" else "",
        base=base,
        version=facts["versions"].get("aftertune", "?"),
        method=method,
        data=f"`{facts['data']['source']}`" + (f", {side} answers" if side else ""),
        rows=facts["data"]["rows"],
        supervised=facts["data"]["supervised_tokens"],
        digest=facts["data"]["sha256"],
        steps=facts["steps"],
        batch=options["batch_size"],
        lr=facts["learning_rate"],
        seed=options["seed"],
        first_loss=facts["losses"][0],
        last_loss=facts["losses"][-1],
        base_sha=facts["base"]["weights_sha256"],
        defences="".join(f"| defence | `{_defence_text(one)}` |\n" for one in facts.get("defences", [])),
        folder=folder.name,
    )
    with explain_storage(folder):
        (folder / "README.md").write_text(text, "utf-8")


def _defence_text(facts: dict[str, Any]) -> str:
    """As the command line names it."""
    settings = ",".join(f"{key}={value}" for key, value in facts["settings"].items())
    return spelled_out(":".join(filter(None, [facts["name"], settings]))).replace("`", "'").replace("|", "/")


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """What `tune` wrote down about a model folder, or None where it did not make it (or the record is damaged)."""
    path = Path(folder) / RECORD
    require_regular(path)
    try:
        record = json.loads(path.read_text("utf-8"))
        base, prompts = record["base"], record["data"]["prompts"]
        whole = {"spec", "weights_sha256", "dtype"} <= base.keys() and isinstance(prompts, list)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return record if whole else None


def claim(work: RunFolder, out: Path, config: dict[str, Any], held: contextlib.ExitStack) -> dict[str, Any] | None:
    """Lock the work folder until ``held`` closes, or give the record of the result that is there already.

    Raises:
        OutputError: something else is there, or another process is at work.
    """
    refuse_taken(out)
    if out.exists():
        record = read_record(out)
        if record and record.get("config") == config:
            return record
        raise OutputError(_taken(out))
    _discard_failed(work)
    held.enter_context(work.locked())
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def refuse_taken(out: Path) -> None:
    """Refuse a place that cannot take a fine-tune, before a model is loaded; one of ours may be there.

    Raises:
        OutputError: something else is there, or its parent may not be written.
    """
    with explain_storage(out):
        if not out.exists():
            refuse_taken_folder(out)
        elif not read_record(out):
            raise OutputError(_taken(out))
        work = partial(out)
        if work.is_symlink() or (work.exists() and not work.is_dir()):
            raise OutputError(f"{work}: is in the way of work in progress; remove it, or choose another --out")


def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _taken(out: Path) -> str:
    return f"{out}: exists and holds something else; models are never overwritten, choose another --out"


def note_failure(work: RunFolder) -> None:
    """Note that a run broke by itself, so that a command with other settings may take its place.

    Checkpoints stay for the same command, which may be given again where there is more memory.
    """
    with contextlib.suppress(OSError, OutputError):
        if last_checkpoint(work.path / "checkpoints") is None:
            shutil.rmtree(work.path, ignore_errors=True)
        else:
            (work.path / _FAILED).touch()


def _discard_failed(work: RunFolder) -> None:
    """Remove what another configuration left in the place of ``work``, if it broke or got nowhere."""
    try:
        held = read_manifest(work.path) if (work.path / MANIFEST).exists() else None
    except OutputError:
        return  # told by `locked`
    if held is None or held["verb"] != "tune" or held["config"] == work.config:
        return
    got_nowhere = last_checkpoint(work.path / "checkpoints") is None
    if (got_nowhere or (work.path / _FAILED).exists()) and not work.busy:
        shutil.rmtree(work.path, ignore_errors=True)


def known_base(spec: str) -> str:
    """The base of a tuned subject, from the record `tune` left or from the adapter's config.

    Of a patched subject it is what the subject beneath was tuned from; if that tells nothing, the subject beneath.

    Raises:
        SubjectError: nothing tells.
    """
    parsed = parse_spec(spec)
    record = read_record(parsed.location)
    if record:
        return str(record["base"]["spec"])
    if parsed.kind == "adapter":
        return adapter_base(Path(parsed.location), read_adapter_config(Path(parsed.location)))
    if parsed.patches:
        return parsed.unpatched
    raise SubjectError(f"{spec}: nothing tells what it was tuned from; give its base with --base")


def is_unpatched(base: str, spec: str) -> bool:
    """Whether ``spec`` is ``base`` with patches: the question is then what these alone do."""
    parsed = parse_spec(spec)
    return bool(parsed.patches) and parse_spec(base).location == parsed.location


def refuse_overlap(spec: str, plan: MeasurePlan) -> None:
    """Refuse to measure on prompts that the subject's own record says it was tuned on."""
    record = read_record(parse_spec(spec).location)
    if record:
        refuse_shared_prompts(spec, plan.prompts(), set(record["data"]["prompts"]))


def refuse_other_base(tuned: SubjectChoice, base: Mapping[str, Any], earlier: Baseline | None = None) -> None:
    """Refuse a base that is not the very one that `tune` and a baseline recorded.

    Args:
        tuned: the fine-tune.
        base: identity record of the base, before anything is measured on it.
        earlier: the baseline.
    """
    if earlier:
        earlier.refuse_other_base(base)
    record = read_record(parse_spec(tuned.spec).location)
    recorded = record["base"] if record else None
    if not recorded or recorded["dtype"] != base["dtype"]:
        return
    if is_unpatched(base["spec"], tuned.spec):
        return
    expected, found = recorded["weights_sha256"], base["weights_sha256"]
    # Weights tuned on top of an adapter were those of it and its base in one.
    beneath = None if recorded.get("patches") else (recorded.get("adapter") or {}).get("sha256")
    if expected != found and not (beneath and beneath == (base.get("adapter") or {}).get("sha256")):
        raise SubjectError(
            f"{tuned.spec}: was tuned from weights {expected[:12]} ({recorded['spec']}), the base given has "
            f"{found[:12]} ({base['spec']}); give the right one with --base"
        )
