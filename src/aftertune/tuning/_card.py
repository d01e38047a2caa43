"""The model card of a fine-tune, and the record by which later runs know it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aftertune.data import Side
from aftertune.errors import spelled_out
from aftertune.runs import explain_storage, require_regular

RECORD = "aftertune.json"

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
