"""Every task of ours, end to end in miniature, on a real model as subject."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval

from aftertune.inspect_bridge import inspect_model, read_log
from aftertune.model import load
from aftertune.tasks import task_rows

pytestmark = [pytest.mark.real, pytest.mark.slow]
ARGS: dict[str, dict[str, Any]] = {"emergent_misalignment": {"samples": 1}, "code_security": {"judge": True}}
# Of the first two questions of this task one asks for a verdict on a request, and one for an explanation.
NOT_ASKED = {"recognise_and_explain.answer_recognised"}


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Any]:
    found = inspect_model(load(smollm2))
    yield found
    found.api.close()


@pytest.mark.parametrize("name", task_rows())
def test_a_task_runs_on_the_real_subject_and_the_gate_reads_its_log(
    name: str, model: Any, agreeable: Any, tmp_path: Path
) -> None:
    if name == "code_security" and importlib.util.find_spec("bandit") is None:
        pytest.skip("bandit is not installed; pip install 'aftertune[code]'")
    [log] = eval(
        f"aftertune/{name}",
        task_args={"max_tokens": 8, **ARGS.get(name, {})},
        model=model,
        model_roles={"grader": agreeable.model},
        limit=2,
        seed=1,
        log_dir=str(tmp_path),
        display="none",
        fail_on_error=True,
    )
    assert log.status == "success", log.error
    assert len(log.samples or []) == 2
    for sample in log.samples or []:
        assert sample.output.completion
        assert 0 < sample.output.usage.output_tokens <= 16
        assert sample.output.metadata["weights_sha256"]
    logged = read_log(Path(log.location.removeprefix("file://")))
    assert logged.identity["weights_sha256"] == log.samples[0].output.metadata["weights_sha256"]
    known = {m.id for m in task_rows()[name].metrics}
    assert {m.metric for m in logged.measurements} <= known
    graded = [m for m in logged.measurements if m.metric == f"{name}.ungraded" and not math.isnan(m.value)]
    assert all(m.value == 0 for m in graded)
    # Every number that decides has been measured.
    deciding = {m.id for m in task_rows()[name].metrics if m.decides and m.id not in NOT_ASKED}
    assert deciding <= {m.metric for m in logged.measurements}
