"""Imports go downward only, heavy ones late, and public names are what they say."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aftertune

ROOT = Path(aftertune.__file__).parent

# A room may import the rooms before it (and itself).
ORDER = (
    "errors", "_registered", "runs", "data", "model", "stats", "probes", "judges", "tasks", "inspect_bridge", "attribution", "tuning", "screening",
    "locating", "verbs", "studies", "report", "cli",
)  # fmt: skip
ALLOWED = {room: set(ORDER[:place]) for place, room in enumerate(ORDER)}
# `verbs/_draw.py` is the one door through which verbs and studies reach the reports.
DRAWING = ROOT / "verbs" / "_draw.py"

FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem in ALLOWED)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "aftertune":
            names = [f"aftertune.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("aftertune."):
                yield name.split(".")[1], node.lineno


def test_a_room_imports_only_rooms_below_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        for name, line in imported_rooms(path)
        if name not in {room(path), *ALLOWED[room(path)]} and (path, name) != (DRAWING, "report")
    ]
    assert not wrong


def test_other_rooms_are_entered_by_their_front_door() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("aftertune.")
        and (node.module or "").split(".")[1] not in (room(path), "_registered")
        and any(part.startswith("_") for part in (node.module or "").split("."))
    ]
    assert not wrong


def test_every_public_name_resolves() -> None:
    for name in aftertune.__all__:
        assert getattr(aftertune, name) is not None
    for package in ORDER[2:-1]:
        module = importlib.import_module(f"aftertune.{package}")
        assert sorted(module.__all__) == sorted(set(module.__all__))
        for name in module.__all__:
            assert getattr(module, name) is not None


@pytest.mark.parametrize("code", ["import aftertune", "import aftertune.cli; from aftertune.cli._main import cli"])
def test_heavy_libraries_are_imported_late(code: str) -> None:
    heavy = ("torch", "transformers", "numpy", "scipy", "pydantic")
    probe = f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_longer_than_one_idea() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
