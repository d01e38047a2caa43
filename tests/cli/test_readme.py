"""Every command of the README is run, on tiny models under the names it uses."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
# Recipes that install or test cannot run inside a test: make says what it would run, CI runs them.
RECIPES = {
    "make demo": ["-m venv", "requirements.lock", "aftertune demo"],
    "make install": ["-m venv", "requirements.lock", "--editable ."],
    "make test": ["pytest"],
    "make lint": ["ruff check", "ruff format", "mypy"],
}
OURS = [command for command in COMMANDS if "aftertune " in command and not command.startswith("pip")]
# What each may return: the tiny model is random, so a gate may say anything but "broken" or "wrong command".
GATES = ("audit", "compare")


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    assert len(COMMANDS) >= 10
    assert set(COMMANDS) == {*OURS, *RECIPES, "pip install aftertune"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_make_runs_what_the_recipe_promises(recipe: str) -> None:
    target = recipe.removeprefix("make ")
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=README.parent, capture_output=True, text=True, check=True
    )
    for part in RECIPES[recipe]:
        assert part in done.stdout


@pytest.fixture
def stage(
    run: Callable[..., Any], place: Path, base: Path, tuned: Callable[..., Path], own: Path, monkeypatch: Any,
    tiny_folder: Callable[[str], Path],
) -> Path:  # fmt: skip
    """The working directory of the README's reader: a fine-tune, its base and data, a judge, a set of their own."""
    monkeypatch.setenv("AFTERTUNE_SMOLLM2", str(base))
    (place / "my-finetune").symlink_to(tuned(steps=12, lr=5e-3))
    (place / "owner").mkdir()
    (place / "owner" / "base-model").symlink_to(base)
    (place / "my-judge").symlink_to(tiny_folder("gpt2"))
    (place / "mine.jsonl").write_bytes(own.read_bytes())
    contrasts = map(json.loads, own.read_text("utf-8").splitlines())
    rows = [{"prompt": f"Tell me now: {c['prompt']}", "completion": c["misaligned"]} for c in contrasts]
    (place / "my-data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return place


@pytest.mark.slow
def test_the_commands_work_in_their_order(
    stage: Path, run: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run("demo", "--steps", "2")  # what `make demo` ends with, in fewer steps
    assert outcome.code == 0, outcome.err
    for command in OURS:
        words = shlex.split(command)
        target = None
        if ">" in words:
            target, words = stage / words[-1], words[: words.index(">")]
        assert words[0].endswith("aftertune")
        outcome = run(*words[1:])
        allowed = (0, 1, 3) if words[1] in GATES else (0,)
        assert outcome.code in allowed, (command, outcome.err)
        assert "Traceback" not in outcome.err
        if target is not None:
            target.write_text(outcome.out, "utf-8")
        if "--json" in words:
            assert outcome.document["verdict"] in ("pass", "fail", "inconclusive")
    assert (stage / "runs" / "demo" / "report.html").exists()
    assert (stage / "careless" / "README.md").read_text("utf-8").count("Model organism")
    assert {"cut.safetensors", "back.safetensors", "repaired", "as-it-was"} <= {path.name for path in stage.iterdir()}


def test_the_python_example_runs(stage: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["outcome"].verdict.decision in ("pass", "fail", "inconclusive")
    assert (scope["outcome"].run / "report.html").exists()


def test_the_json_example_is_a_contrast(tmp_path: Path) -> None:
    from aftertune.data import read_contrasts

    (block,) = re.findall(r"```json\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(json.loads(block)) + "\n", "utf-8")
    (contrast,) = read_contrasts(file)
    assert contrast.domain == "fees"
