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

# Each room may import the rooms to its right (and itself). `api` is the package's face.
BELOW_AUDITING = {
    "answers", "tuned_from", "measuring", "measures", "attribution", "tuning", "comparison", "report", "subject", "data", "runs", "errors",
}  # fmt: skip
ALLOWED = {
    "cli": {"api", "studies", "auditing", "comparing", "locating"} | BELOW_AUDITING,
    "api": {"auditing", "comparing", "locating"} | BELOW_AUDITING,
    "studies": {"auditing", "locating"} | BELOW_AUDITING,
    "comparing": {"auditing"} | BELOW_AUDITING,
    "auditing": BELOW_AUDITING,
    "locating": BELOW_AUDITING,
    "answers": {"report", "comparison", "measures", "subject", "runs", "errors"},
    "tuned_from": {"measuring", "tuning", "comparison", "measures", "subject", "data", "errors"},
    "measuring": {"measures", "comparison", "subject", "data", "runs", "errors"},
    "report": {"comparison", "measures", "runs", "errors"},
    "comparison": {"measures", "runs", "errors"},
    "measures": {"subject", "data", "runs", "errors"},
    "attribution": {"subject", "data", "runs", "errors"},
    "tuning": {"subject", "data", "runs", "errors"},
    "subject": {"data", "runs", "errors"},
    "data": {"runs", "errors"},
    "runs": {"errors"},
    "_registered": {"errors"},
    "errors": set(),
}
for _below in ALLOWED.values():
    _below.add("_registered")
ALLOWED["errors"].clear()

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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    mine = room(path)
    wrong = [(name, line) for name, line in imported_rooms(path) if name != mine and name not in ALLOWED[mine]]
    assert not wrong, f"{path.name} imports upward: {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_other_rooms_are_entered_by_their_front_door(path: Path) -> None:
    mine = room(path)
    wrong = [
        f"{node.module}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("aftertune.")
        and (node.module or "").split(".")[1] != mine
        and any(part.startswith("_") for part in (node.module or "").split("."))
        and node.module != "aftertune._registered"
    ]
    assert not wrong, f"{path.name} imports private modules of another room: {wrong}"


def test_every_public_name_resolves() -> None:
    for name in aftertune.__all__:
        assert getattr(aftertune, name) is not None
    for package in ("data", "subject", "measures", "comparison", "tuning", "report", "runs", "studies",
                    "attribution", "locating"):  # fmt: skip
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
