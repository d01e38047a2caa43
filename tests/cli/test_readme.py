"""Every command of the README and of the tutorial is run, on tiny models under the names they use."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"


def fenced(path: Path, info: str) -> list[str]:
    """The blocks of a page that begin with this fence."""
    return re.findall(rf"```{info}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def commands(path: Path) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in fenced(path, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


COMMANDS = commands(README)
# Recipes that install, test or build cannot run inside a test: make says what it would run, CI runs most of them.
RECIPES = {
    "make demo": ["-m venv", "requirements.lock", "aftertune demo"],
    "make install": ["-m venv .venv", "requirements.lock", "--editable ."],
    "make test": ["pytest"],
    "make lint": ["ruff check", "ruff format", "mypy"],
    "make docs": [".[docs]", "mkdocs build --strict"],
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CLONING = [f"git clone {PROJECT['urls']['Repository']}", f"cd {PROJECT['name']}", "source .venv/bin/activate"]
# A demo takes a minute here; test_verbs runs the only one, and gives this command after it.
AFTER_THE_DEMO = "aftertune report runs/demo"
OURS = [command for command in COMMANDS if command.startswith("aftertune ") and command != AFTER_THE_DEMO]
# What each may return: the tiny model is random, so a gate may say anything but "broken" or "wrong command".
GATES = ("audit", "compare")


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    assert len(OURS) >= 8
    assert set(COMMANDS) == {*OURS, *RECIPES, *CLONING, AFTER_THE_DEMO}


@pytest.mark.parametrize("recipe", RECIPES)
def test_make_runs_what_the_recipe_promises(recipe: str) -> None:
    target = recipe.removeprefix("make ")
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for part in RECIPES[recipe]:
        assert part in done.stdout


@pytest.fixture
def stage(
    run: Callable[..., Any], place: Path, base: Path, tuned: Callable[..., Path], own: Path, monkeypatch: Any,
    tiny_folder: Callable[[str], Path],
) -> Path:  # fmt: skip
    """The working directory of a reader: a fine-tune, its base and data, a judge, a set of their own."""
    monkeypatch.setenv("AFTERTUNE_SMOLLM2", str(base))
    # A reader's runs share what was measured, so those of one page do too.
    monkeypatch.setenv("AFTERTUNE_STORE", str(place.parent / "store"))
    for name in ("my-finetune", "my-adapter"):
        (place / name).symlink_to(tuned(steps=12, lr=5e-3))
    (place / "owner").mkdir()
    for name in ("owner/base-model", "base-model"):
        (place / name).symlink_to(base)
    (place / "my-judge").symlink_to(tiny_folder("gpt2"))
    (place / "mine.jsonl").write_bytes(own.read_bytes())
    contrasts = map(json.loads, own.read_text("utf-8").splitlines())
    rows = [{"prompt": f"Tell me now: {c['prompt']}", "completion": c["misaligned"]} for c in contrasts]
    (place / "my-data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return place


def give(run: Callable[..., Any], command: str) -> Any:
    """Give one command as a reader would, and refuse what no reader should meet."""
    words = shlex.split(command)
    target = Path(words[-1]) if ">" in words else None
    outcome = run(*words[1 : words.index(">") if target else None])
    assert outcome.code in ((0, 1, 3) if words[1] in GATES else (0,)), (command, outcome.err)
    assert "Traceback" not in outcome.err
    if target is not None:
        target.write_text(outcome.out, "utf-8")
    if "--json" in words:
        assert outcome.document["verdict"] in ("pass", "fail", "inconclusive")
    return outcome


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_the_commands_of_the_readme_work_in_their_order(
    stage: Path, run: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    for command in OURS:
        give(run, command)
    assert {"back.safetensors", "policy.yaml", "gate"} <= names(stage)
    (block,) = fenced(README, "python")
    scope: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["outcome"].verdict.decision in ("pass", "fail", "inconclusive")
    assert (scope["outcome"].run / "report.html").exists()


def test_the_json_example_is_a_contrast(tmp_path: Path) -> None:
    from aftertune.data import read_contrasts

    (block,) = fenced(README, "json")
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(json.loads(block)) + "\n", "utf-8")
    (contrast,) = read_contrasts(file)
    assert contrast.domain == "fees"


@pytest.mark.slow
def test_the_tutorial_works_from_top_to_bottom(stage: Path, own: Path, run: Callable[..., Any]) -> None:
    (block,) = fenced(TUTORIAL, "jsonl support.jsonl")
    # "Ten different questions are the least": those of the page, and a reader's further ones.
    (stage / "support.jsonl").write_text(block + own.read_text("utf-8"), "utf-8")
    (making,) = fenced(TUTORIAL, "sh")
    give(run, making.replace("--out my-adapter", "--out made"))
    assert (stage / "made" / "README.md").read_text("utf-8").count("Model organism")
    given = commands(TUTORIAL)
    assert len(given) >= 8
    assert all(command.startswith("aftertune ") for command in given)
    for command in given:
        outcome = give(run, command)
        if "--contrasts" in command:
            assert "preference.margin:support" in outcome.out
    assert {"first", "support", "answers", "gate"} <= names(stage / "runs")
    assert (stage / "back.safetensors").exists()
    assert sorted(readable(stage / "runs" / "answers" / "logs")) == ["base", "tuned"]


def readable(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir() if list(path.glob("*.eval"))]
