"""Options that several verbs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftertune.cli._flags import grouped

if TYPE_CHECKING:
    from aftertune.inspect_bridge import TaskPlan
    from aftertune.model import Placement
    from aftertune.probes import MeasurePlan
    from aftertune.runs import Progress

file_path = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
display_option = click.option("--display", type=click.Choice(["auto", "rich", "plain", "none"]), default="auto",
                              show_default=True, help="Progress on stderr.")  # fmt: skip

device_options = grouped(
    "Model and device",
    click.option("--device", help="cpu, cuda, cuda:1, mps, or auto to spread layers. Default: the best here."),
    click.option("--dtype", help="float32, bfloat16 or float16. Default: float32 on a CPU, else bfloat16."),
)

placement_options = grouped(
    "Model and device",
    device_options,
    click.option("--max-batch-tokens", type=int, help="Tokens per forward pass. Default: fits the logits in memory."),
)

loading_options = grouped(
    "Model and device",
    click.option("--tokenizer", help="Folder or hub id to take the tokenizer from."),
    click.option("--chat-template", help="Jinja file, or 'plain', instead of the tokenizer's own."),
    click.option("--trust-remote-code", is_flag=True, help="Run model code that comes with a checkpoint."),
)

plan_options = grouped(
    "What is asked",
    click.option("--probes", help="Comma-separated probes. Default: all whose needs are met."),
    click.option("--domains", help="Comma-separated domains of the shipped contrasts. Default: all."),
    click.option("--exclude-domain", multiple=True, help="Leave a domain out, such as the one tuned on. Repeatable."),
    click.option("--split", type=click.Choice(["measure", "dev", "measure_v1"]), default="measure", show_default=True,
                 help="Shipped contrasts: measure; dev for choosing settings; or measure_v1, as measure was before."),
    click.option("--contrasts", type=file_path, multiple=True, help="Your own contrasts (JSONL). Repeatable."),
    click.option("--traits", type=file_path, multiple=True, help="Your own yes/no statements (JSONL). Repeatable."),
    click.option("--truthfulqa", type=file_path, help="TruthfulQA.csv, for the probe truthful."),
    click.option("--pmi/--no-pmi", default=True, show_default=True,
                 help="Measure preference.pmi_margin, which informs and doubles the time of preference."),
)  # fmt: skip

policy_options = grouped(
    "When it passes",
    click.option("--policy", "policy_file", type=file_path, help="YAML with tolerances and which metrics decide."),
    click.option("--tolerance", multiple=True, metavar="METRIC=VALUE",
                 help="Tolerated worsening of a metric. Repeatable."),
    click.option("--margin", multiple=True, hidden=True),
    click.option("--allow-untestable", is_flag=True,
                 help="Pass although a deciding metric is not testable on this base."),
)  # fmt: skip

baseline_options = grouped(
    "When it passes",
    click.option("--baseline", type=file_path, metavar="RUN",
                 help="Folder of an earlier run against the same base: tell what is new, fixed, persistent."),
    click.option("--fail-on", type=click.Choice(["any", "new"]), default="any", show_default=True,
                 help="new: ignore what did not pass in the baseline and is surely not worse now."),
)  # fmt: skip

output_options = grouped(
    "Output",
    click.option("--out", type=file_path, help="Run folder. Default: runs/ and a name from the configuration."),
    json_option,
    display_option,
)  # fmt: skip


task_options = grouped(
    "Sampled answers",
    click.option("--task", "tasks", multiple=True, metavar="NAME",
                 help="Also sample and score answers: a task of ours, or any that Inspect finds. Repeatable."),
    click.option("-T", "task_args", multiple=True, metavar="KEY=VALUE", help="A parameter of the tasks. Repeatable."),
    click.option("--grader", "graders", multiple=True, metavar="MODEL",
                 help="The model that judges answers, as Inspect names it. Given again: second opinions."),
    click.option("--samples", type=int, help="Answers to each question. Default: as the task says."),
    click.option("--limit", type=int, help="Only so many questions of each task."),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed for sampling answers."),
    click.option("--harm", multiple=True, metavar="TASK", help="A task whose score grows with harm. Repeatable."),
    click.option("--good", multiple=True, metavar="TASK", help="A task whose score falls with harm. Repeatable."),
)  # fmt: skip


def tolerances(given: tuple[str, ...], old: tuple[str, ...]) -> tuple[str, ...]:
    """What ``--tolerance`` says, and ``--margin``, its name in version 0.1."""
    if old:
        click.echo("--margin is called --tolerance now; the old name works in this version", err=True)
    return old + given


def make_tasks(options: dict[str, Any]) -> TaskPlan | None:
    """Take the task options out of ``options``; None where no task is named."""
    from aftertune.errors import UsageError
    from aftertune.inspect_bridge import TaskPlan

    names, args = options.pop("tasks"), _task_args(options.pop("task_args"))
    settings = {name: options.pop(name) for name in ("graders", "samples", "limit", "seed", "harm", "good")}
    if names:
        return TaskPlan(names, args, **settings)
    given = [name.removesuffix("s") if name == "graders" else name
             for name in ("graders", "samples", "limit", "harm", "good") if settings[name]]  # fmt: skip
    if args or given:
        flag = "-T" if args else f"--{given[0]}"
        raise UsageError(f"{flag} only applies to tasks; name one with --task NAME")
    return None


# What begins a block, a comment, an anchor or a tag in YAML begins ordinary text on a command line.
_NO_YAML = ("|", ">", "#", "%", "@", "`", "&", "*", "!", "?", "- ")
_MOST_ARGUMENT, _DEEPEST = 1_000_000, 100


def _task_args(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE``; the value is YAML as for Inspect (numbers, true, lists), and what is no YAML is text."""
    from aftertune.errors import UsageError

    args: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"-T {pair[:100]}: must be KEY=VALUE, such as samples=4")
        if key in args:
            raise UsageError(f"-T {key}: is given twice; leave one out")
        if len(value) > _MOST_ARGUMENT:
            raise UsageError(f"-T {key}: is longer than {_MOST_ARGUMENT:,} characters")
        args[key] = _task_value(value)
    return args


def _task_value(text: str) -> Any:
    import yaml

    if text.startswith(_NO_YAML) or text.count("[") + text.count("{") > _DEEPEST:
        return text
    try:
        value = yaml.safe_load(text)
        json.dumps(value)  # dates, sets and lists within themselves are no values of ours
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return text
    return value


def make_placement(options: dict[str, Any]) -> Placement:
    """Take the placement options out of ``options``."""
    from aftertune.model import Placement

    return Placement(options.pop("device"), options.pop("dtype"), options.pop("max_batch_tokens", None))


def make_plan(options: dict[str, Any]) -> MeasurePlan:
    """Take the plan options out of ``options``."""
    from aftertune.data import DOMAINS
    from aftertune.errors import UsageError
    from aftertune.probes import MeasurePlan, default_probes

    probes, domains = options.pop("probes"), options.pop("domains")
    excluded = options.pop("exclude_domain")
    chosen = _names(domains) if domains is not None else DOMAINS
    for name in excluded:
        if name not in DOMAINS:
            raise UsageError(f"--exclude-domain {name}: no such domain; known are {', '.join(DOMAINS)}")
    return MeasurePlan(
        probes=_names(probes) if probes is not None else default_probes(),
        domains=tuple(d for d in chosen if d not in excluded),
        split=options.pop("split"),
        contrasts=options.pop("contrasts"),
        traits=options.pop("traits"),
        truthfulqa=options.pop("truthfulqa"),
        pmi=options.pop("pmi"),
    )


def make_progress(options: dict[str, Any]) -> Progress:
    """Take the display option out of ``options``."""
    from aftertune.runs import choose_progress

    return choose_progress(options.pop("display"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout, in ASCII: nothing from data can steer a terminal."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))
