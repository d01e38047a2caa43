"""Tasks register themselves: their rows, one in a user's file, and Inspect imported only where a task is concerned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from inspect_ai import task
from inspect_ai.util import registry_info

from aftertune._registered import EXTENSIONS
from aftertune.cli._main import cli
from aftertune.inspect_bridge import TaskPlan, run_tasks
from aftertune.model import Subject
from aftertune.stats import Metric, all_metrics, find_metric, sampled_tasks
from aftertune.tasks import TaskRow, task_rows

NAMES = [
    "emergent_misalignment", "harmfulness", "strong_reject", "over_refusal", "deception", "self_description",
    "code_security", "recognise_and_explain",
]  # fmt: skip
EXAMPLE = Path(__file__).parents[2] / "examples" / "extending" / "politeness.py"


def test_every_task_is_found_in_order_and_registered_with_inspect() -> None:
    rows = task_rows()
    assert list(rows) == NAMES
    for name, row in rows.items():
        assert row.registered == registry_info(row.build).name == f"aftertune/{name}"
        assert row.metrics
        assert sampled_tasks([row.metrics[0].id]) == {name: row.metrics}
    tasks = [metric for row in rows.values() for metric in row.metrics]
    assert len({metric.id for metric in all_metrics()}) == len(all_metrics())
    assert set(tasks) <= set(all_metrics())


@task
def lonely() -> None:
    """No task at all; only its name counts."""


@pytest.mark.parametrize(
    ("name", "metric", "problem"),
    [
        ("lovely", "lovely.share", "the task 'lonely' has the row 'lovely'"),
        ("lonely", "others.share", "must begin with 'lonely.'"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(name: str, metric: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TaskRow(name, 0, "", lonely, (Metric(metric, "", "share", "higher", True, 0.1),), judged=False)


def test_a_documented_file_adds_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_subject: Callable[[str], Subject],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(EXTENSIONS, str(EXAMPLE))
    assert list(task_rows()) == [*NAMES, "politeness"]
    assert find_metric("politeness.thanks") is not None
    plan = TaskPlan(("politeness",), limit=3)
    plan.check()
    assert plan.config["extensions"].keys() == {"politeness"}
    [run] = run_tasks(tiny_subject("llama"), plan, tmp_path / "logs")
    assert [m.metric for m in run.measurements] == ["politeness.thanks"] * 3
    assert {m.value for m in run.measurements} <= {0.0, 1.0}
    cli.main(["tasks"], standalone_mode=False)
    assert re.search(r"politeness +none +gifts", capsys.readouterr().out)


def test_what_concerns_no_task_never_imports_inspect(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Inspect takes seconds: an audit of probes alone, with its report, does without."""
    code = (
        "import sys, aftertune\n"
        "plan = aftertune.MeasurePlan(probes=('preference',), domains=('money',), pmi=False)\n"
        f"aftertune.audit({str(tiny_folder('llama'))!r}, {str(tiny_folder('qwen2'))!r}, plan=plan, "
        f"out={str(tmp_path / 'run')!r})\n"
        "print('inspect_ai' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {EXTENSIONS: ""}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
