"""What a log of Inspect records, field by field: what must agree before the numbers of two logs mean the same.

A field that is not in the table (of a newer Inspect, say) must agree, and differing it is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Rule = Literal["same", "noted", "free", "read"]
"""What to make of a field of a log.

- ``same``: two logs that differ in it are not compared, unless it is named as what may differ.
- ``noted``: it may differ, and the verdict's note says that it does.
- ``free``: it may differ: who is asked, when, and how the work was spread.
- ``read``: it is read for its meaning, in `aftertune.inspect_bridge._logs`.
"""

_EVAL_LOG: Mapping[str, Rule] = {
    "version": "free",
    "status": "read",  # only finished runs are compared
    "eval": "read",
    "plan": "read",
    "results": "read",
    "stats": "free",
    "error": "read",
    "invalidated": "read",  # invalidated samples are missing ones
    "log_updates": "free",  # edits of tags and metadata
    "config_updates": "read",  # settings changed in mid-run: those that must agree
    "tags": "noted",
    "metadata": "free",
    "samples": "read",
    "reductions": "read",
    "location": "free",
    "etag": "free",
}

_EVAL_SPEC: Mapping[str, Rule] = {
    "eval.eval_set_id": "free",
    "eval.eval_id": "free",
    "eval.run_id": "free",
    "eval.created": "free",
    "eval.task": "read",
    "eval.task_id": "free",
    "eval.task_version": "same",
    "eval.task_file": "noted",
    "eval.task_display_name": "free",
    "eval.task_description": "free",
    "eval.task_registry_name": "read",
    "eval.task_attribs": "same",
    "eval.task_args": "same",
    "eval.task_args_passed": "free",  # those above, without defaults
    "eval.solver": "read",
    "eval.solver_args": "read",
    "eval.solver_args_passed": "free",
    "eval.tags": "free",  # as `tags`
    "eval.dataset": "read",
    "eval.sandbox": "same",
    "eval.model": "free",
    "eval.model_generate_config": "read",
    "eval.model_base_url": "free",
    "eval.model_args": "read",
    "eval.model_roles": "read",
    "eval.config": "read",
    "eval.revision": "noted",
    "eval.packages": "noted",
    "eval.metadata": "free",
    "eval.viewer": "free",
    "eval.scorers": "read",
    "eval.metrics": "same",
    "eval.headline_metric": "free",
    "eval.shards": "free",
}

_DATASET: Mapping[str, Rule] = {
    "eval.dataset.name": "same",
    "eval.dataset.location": "noted",
    "eval.dataset.samples": "noted",  # those that were asked are compared one by one
    "eval.dataset.sample_ids": "free",
    "eval.dataset.shuffled": "noted",
}

_CONFIG: Mapping[str, Rule] = {
    "eval.config.limit": "free",  # which samples were asked is compared one by one
    "eval.config.sample_id": "free",
    "eval.config.sample_shuffle": "free",
    "eval.config.epochs": "read",
    "eval.config.epochs_reducer": "read",
    "eval.config.approval": "same",
    "eval.config.review": "same",
    "eval.config.sentinel": "same",
    "eval.config.notification": "free",
    # Answers that broke off are missing, whatever the run made of them.
    "eval.config.fail_on_error": "noted",
    "eval.config.continue_on_fail": "noted",
    "eval.config.retry_on_error": "noted",
    "eval.config.score_on_error": "noted",
    "eval.config.message_limit": "same",
    "eval.config.token_limit": "same",
    "eval.config.token_limit_type": "same",
    "eval.config.turn_limit": "same",
    "eval.config.time_limit": "same",
    "eval.config.working_limit": "same",
    "eval.config.cost_limit": "same",
    **dict.fromkeys(
        (
            f"eval.config.{name}"
            for name in (
                "max_samples", "max_dataset_memory", "max_tasks", "max_subprocesses", "max_sandboxes",
                "sandbox_cleanup", "sandbox_prebuilt", "log_samples", "log_realtime", "log_images", "log_model_api",
                "log_buffer", "log_shared", "score_display", "acp_server",
            )
        ),
        "free",
    ),
}  # fmt: skip

_PLAN: Mapping[str, Rule] = {
    "plan.name": "same",
    "plan.steps": "read",
    "plan.finish": "read",
    "plan.config": "read",
}

# Of the settings of generation all must agree but these.
_GENERATION: Mapping[str, Rule] = {
    **dict.fromkeys(
        (
            f"generation.{name}"
            for name in (
                "max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections",
                "adaptive_connections", "extra_headers", "cache", "cache_prompt", "batch",
            )
        ),
        "free",
    ),
    "generation.seed": "noted",
    "generation.logprobs": "noted",
    "generation.top_logprobs": "noted",
    "generation.prompt_logprobs": "noted",
    "generation.reasoning_summary": "noted",
}  # fmt: skip

# Arguments of the model under test say which model it is and where it runs; all others must agree.
_WHICH_MODEL = (
    "base model model_name model_path tokenizer tokenizer_path tokenizer_name revision adapter adapter_path lora "
    "lora_path enable_lora max_lora_rank lora_modules custom_outputs trust_remote_code"
)
_WHERE = (
    "host port base_url device device_map tensor_parallel_size pipeline_parallel_size data_parallel_size timeout "
    "gpu_memory_utilization batch_size max_batch_tokens max_num_seqs max_connections organization project region "
    "location"
)
_MODEL_ARGS: Mapping[str, Rule] = {f"model_args.{name}": "free" for name in f"{_WHICH_MODEL} {_WHERE}".split()}

_SAMPLE: Mapping[str, Rule] = {
    "samples.id": "read",
    "samples.epoch": "read",
    "samples.input": "read",  # prompts
    "samples.choices": "read",  # prompts
    "samples.target": "read",  # prompts
    "samples.description": "free",
    "samples.sandbox": "read",  # files
    "samples.files": "read",  # files
    "samples.setup": "read",  # files
    "samples.messages": "read",  # messages: those before the model's first
    "samples.output": "read",
    "samples.scores": "read",
    "samples.metadata": "read",  # metadata: as the data set has it
    "samples.store": "free",
    "samples.events": "read",
    "samples.timelines": "free",
    "samples.model_usage": "read",  # models
    "samples.role_usage": "free",
    "samples.model_fallbacks": "read",  # another model answered: missing
    "samples.started_at": "free",
    "samples.completed_at": "free",
    "samples.total_time": "free",
    "samples.working_time": "free",
    "samples.uuid": "free",
    "samples.invalidation": "read",  # missing
    "samples.error": "read",  # missing
    "samples.error_retries": "read",
    "samples.attachments": "read",
    "samples.events_data": "free",
    "samples.limit": "read",
    "samples.turn_count": "free",
    "samples.token_limit": "free",  # as `config_updates`
    "samples.token_limit_type": "free",
    "samples.token_limit_usage": "free",
    "samples.message_limit": "free",
    "samples.time_limit": "free",
}

FIELDS: Mapping[str, Rule] = {
    **_EVAL_LOG,
    **_EVAL_SPEC,
    **_DATASET,
    **_CONFIG,
    **_PLAN,
    **_GENERATION,
    **_MODEL_ARGS,
    **_SAMPLE,
}
"""Every field of a log by its place in it; ``generation`` stands for the settings of the plan and of the model."""

NEVER: frozenset[str] = frozenset({"task", "samples", "scored"})
"""What two logs must have in common whatever may differ: without it there is nothing to pair."""


def rule_of(place: str) -> Rule:
    """What to make of a field; one that is not in the table must agree."""
    return FIELDS.get(place, "same")
