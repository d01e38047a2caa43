"""What two logs must have in common: every field of a log with its rule, read as plain values by name, and compared.

A field that is not in the table (of a newer Inspect, say) must agree, and differing it is named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog
    from pydantic import BaseModel

# Where an object lay in memory tells nothing, and neither does a message's id.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SECRET = re.compile(r"(?:^|_)(?:key|secret|password|token|credentials?)$", re.IGNORECASE)
# Names that older versions of Inspect wrote, and newer ones read as others.
_LEGACY = frozenset({"max_messages", "scorer", "sample_reductions"})

# Of a longer text, such as a prompt's template, the beginning is kept and a digest of the whole.
_SHOWN = 200
# Groups by scorer.
_BY_SCORER = ("scorers", "judges", "edits")

Rule = Literal["same", "noted", "free", "read"]
"""What to make of a field of a log.

- ``same``: two logs that differ in it are not compared, unless it is named as what may differ.
- ``noted``: it may differ, and the verdict's note says so.
- ``free``: it may differ: who is asked, when, and how the work was spread.
- ``read``: it is read for its meaning, in `aftertune.inspect_bridge._logs`.
"""


def _rules(prefix: str, **fields: str) -> dict[str, Rule]:
    """Rules of fields that lie under one prefix, from their names by rule."""
    return {prefix + name: cast(Rule, rule) for rule, names in fields.items() for name in names.split()}


FIELDS: Mapping[str, Rule] = {
    # Only finished runs are compared, invalidated samples are missing ones, and settings that were changed in mid-run
    # (config_updates) must agree. Edits of tags and metadata (log_updates) do not count.
    **_rules(
        "",
        read="status eval plan results error invalidated config_updates samples reductions",
        noted="tags",
        free="version stats log_updates metadata location etag",
    ),
    # The arguments that were passed are in task_args and solver_args, the tags in those of the log.
    **_rules(
        "eval.",
        same="task_version task_attribs task_args sandbox metrics",
        noted="task_file revision packages",
        read="task task_registry_name solver solver_args dataset model_generate_config model_args model_roles config "
        "scorers",
        free="eval_set_id eval_id run_id created task_id task_display_name task_description task_args_passed "
        "solver_args_passed tags model model_base_url metadata viewer headline_metric shards",
    ),
    # How many samples there are does not count: those that were asked are compared one by one.
    **_rules("eval.dataset.", same="name", noted="location samples shuffled", free="sample_ids"),
    # Answers that broke off are missing, whatever the run made of them.
    **_rules(
        "eval.config.",
        read="epochs epochs_reducer",
        same="approval review sentinel message_limit token_limit token_limit_type turn_limit time_limit working_limit "
        "cost_limit",
        noted="fail_on_error continue_on_fail retry_on_error score_on_error",
        free="limit sample_id sample_shuffle notification max_samples max_dataset_memory max_tasks max_subprocesses "
        "max_sandboxes sandbox_cleanup sandbox_prebuilt log_samples log_realtime log_images log_model_api log_buffer "
        "log_shared score_display acp_server",
    ),
    **_rules("plan.", same="name", read="steps finish config"),
    # Settings of generation, of the plan and of the model: all must agree but these.
    **_rules(
        "generation.",
        free="max_retries timeout attempt_timeout stream_idle_timeout max_connections adaptive_connections "
        "extra_headers cache cache_prompt batch",
        noted="seed logprobs top_logprobs prompt_logprobs reasoning_summary",
    ),
    # Arguments of the model under test say which model it is and where it runs; all others must agree.
    **_rules(
        "model_args.",
        free="base model model_name model_path tokenizer tokenizer_path tokenizer_name revision adapter adapter_path "
        "lora lora_path enable_lora max_lora_rank lora_modules custom_outputs trust_remote_code "
        "host port base_url device device_map tensor_parallel_size pipeline_parallel_size data_parallel_size timeout "
        "gpu_memory_utilization batch_size max_batch_tokens max_num_seqs max_connections organization project region "
        "location",
    ),
    # Read are: prompts (input, choices, target), files (sandbox, files, setup), the messages before the model's first,
    # metadata as the data set has it, the models used, and what makes an answer a missing one (model_fallbacks,
    # invalidation, error). Limits of tokens are in config_updates.
    **_rules(
        "samples.",
        read="id epoch input choices target sandbox files setup messages output scores metadata events model_usage "
        "model_fallbacks invalidation error error_retries attachments limit",
        free="description store timelines role_usage started_at completed_at total_time working_time uuid events_data "
        "turn_count token_limit token_limit_type token_limit_usage message_limit time_limit",
    ),
}
"""Every field of a log by its path in it; ``generation`` stands for the settings of the plan and of the model."""

NEVER: frozenset[str] = frozenset({"task", "samples", "scored"})
"""What two logs must have in common whatever may differ: without it there is nothing to pair."""


def rule_of(path: str) -> Rule:
    """What to make of a field; one that is not in the table must agree."""
    return FIELDS.get(path, "same")


def plain(value: Any) -> Any:
    """A value as JSON has it, without what differs between equal runs: addresses, ids of messages, secrets, mocks."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_none=True, fallback=str)
    if isinstance(value, Mapping):
        dropped = {"custom_outputs", *(("id",) if "role" in value else ())}
        return {
            str(key): _hidden(inner) if is_secret(str(key)) else plain(inner)
            for key, inner in value.items()
            if inner is not None and key not in dropped
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = _ADDRESS.sub("", str(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({_hidden(text)})"


def is_secret(name: str) -> bool:
    """Whether a value of this name may be a key or a password: it is compared, and never written down."""
    return _SECRET.search(name) is not None


def _hidden(value: Any) -> str:
    return f"sha256:{hashlib.sha256(repr(value).encode('utf-8', 'replace')).hexdigest()[:12]}"


def settings(log: EvalLog, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a log's head says of the experiment: what must agree, and what is noted where it does not.

    Args:
        log: with or without samples.
        raw: its head as it stands in the file; what this version of Inspect does not know is taken from there.
    """
    from inspect_ai.log._config_update import effective_eval_config, effective_generate_config

    spec, config, dataset = log.eval, effective_eval_config(log), log.eval.dataset
    raw_spec, raw_plan = _object(raw, "eval"), _object(raw, "plan")
    fields = {
        **_fields("", log, raw),
        **_fields("eval.", spec, raw_spec),
        **_fields("eval.config.", config, _object(raw_spec, "config")),
        **_fields("eval.dataset.", dataset, _object(raw_spec, "dataset")),
        **_fields("plan.", log.plan, raw_plan),
        # A model's own settings go before those of the plan, as in Inspect.
        **_fields(
            "generation.",
            log.plan.config.merge(effective_generate_config(log)),
            {**_object(raw_plan, "config"), **_object(raw_spec, "model_generate_config")},
        ),
        **{
            f"model_args.{key}": plain(value)
            for key, value in spec.model_args.items()
            if _is_setting(value) and not is_secret(key)
        },
    }
    same: dict[str, Any] = {
        "task": spec.task_registry_name or spec.task,
        "task_version": str(spec.task_version),
        "task_args": plain(spec.task_args),
        "solver": {
            "name": spec.solver,
            "args": plain(spec.solver_args or {}),
            "steps": [[step.solver, plain(step.params)] for step in log.plan.steps],
            "finish": [log.plan.finish.solver, plain(log.plan.finish.params)] if log.plan.finish else None,
        },
        "epochs": config.epochs or 1,
        "reducers": config.epochs_reducer or ["mean"],
    }
    noted: dict[str, Any] = {}
    for path, value in fields.items():
        rule = rule_of(path)
        if rule in ("same", "noted"):
            _put(same if rule == "same" else noted, _name(path), value)
    changed = [
        [change.config, change.name, plain(change.value)]
        for update in log.config_updates or ()
        for change in update.changes
        if rule_of(f"{'generation' if change.config == 'generate' else 'eval.config'}.{change.name}") == "same"
        and change.config != "concurrency"
    ]
    if changed:
        same["config_updates"] = changed
    if log.results is not None and log.results.early_stopping is not None:
        same["early_stopping"] = plain(log.results.early_stopping.manager)
    return same, noted


def _fields(prefix: str, model: BaseModel, raw: Mapping[str, Any]) -> dict[str, Any]:
    known = type(model).model_fields
    unknown = {key: value for key, value in raw.items() if key not in known and key not in _LEGACY}
    values = {name: getattr(model, name) for name in known if rule_of(prefix + name) in ("same", "noted")}
    found = {prefix + name: plain(value) for name, value in {**values, **unknown}.items()}
    return {path: value for path, value in found.items() if value not in (None, {}, [])}


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, Mapping) else {}


def _is_setting(value: Any) -> bool:
    """Whether an argument is one that can be compared; a live object is not."""
    return isinstance(value, bool | int | float | dict | list) or (isinstance(value, str) and not value.startswith("<"))


def _name(path: str) -> str:
    return path.removeprefix("eval.").removeprefix("config.")


def _put(into: dict[str, Any], name: str, value: Any) -> None:
    group, dot, inner = name.partition(".")
    if not dot:
        into.setdefault(name, value)
    else:
        into.setdefault(group, {})[inner] = value


def differing(one: Mapping[str, Any], other: Mapping[str, Any], allowed: Collection[str] = ()) -> list[str]:
    """Names of what differs between two logs, such as ``epochs`` or ``generation.temperature``.

    Args:
        one: what must agree, by name.
        other: the same of the other log.
        allowed: names that may differ; of a group (``generation``) all of it.
    """
    names = [name for name in _names(one, other) if _at(one, name) != _at(other, name)]
    allowed = set(allowed) - NEVER
    return [name for name in names if name not in allowed and name.partition(".")[0] not in allowed]


def _names(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    scored = [set(side.get("scored", ())) for side in (one, other)]
    lacking = scored[0] ^ scored[1]
    shared = scored[0] & scored[1]
    for name in dict.fromkeys((*one, *other)):
        groups = [side.get(name) for side in (one, other)]
        if name == "scored" and shared:
            continue  # a scorer that one log lacks was added later, and is named elsewhere
        if any(isinstance(group, Mapping) for group in groups):
            keys = dict.fromkeys(key for group in groups for key in group or ())
            yield from (f"{name}.{key}" for key in keys if not (name in _BY_SCORER and key in lacking))
        else:
            yield name


def _at(settings: Mapping[str, Any], name: str) -> Any:
    if name in settings:
        return settings[name]
    group, _, key = name.partition(".")
    found = settings.get(group)
    return found.get(key) if isinstance(found, Mapping) else None


def shown(settings: Mapping[str, Any], name: str, length: int = 120) -> str:
    """A value by its name, for a line of text."""
    text = repr(_at(settings, name))
    return text if len(text) <= length else f"{text[:length]}…"


def known_names(settings: Mapping[str, Any]) -> set[str]:
    """All names that `differing` may give for a log, groups included."""
    inner = {f"{name}.{key}" for name, group in settings.items() if isinstance(group, Mapping) for key in group}
    return set(settings) | inner
