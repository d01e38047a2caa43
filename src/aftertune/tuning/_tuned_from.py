"""What a tuned subject was tuned from and on, as `tune` recorded it or its adapter says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftertune.data import refuse_shared_prompts
from aftertune.errors import SubjectError
from aftertune.model import SubjectChoice, adapter_base, parse_spec, read_adapter_config
from aftertune.probes import MeasurePlan
from aftertune.stats import Baseline
from aftertune.tuning._record import read_record


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
