"""The list of deliberate faults fits the source: every text to replace stands there exactly once."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import aftertune

HERE = Path(__file__).parent
PACKAGE = Path(aftertune.__file__).parent
FAULTS: list[dict[str, Any]] = [
    {"room": path.stem, **row}
    for path in sorted(HERE.glob("*.toml"))
    for row in tomllib.loads(path.read_text())["fault"]
]


def test_every_fault_can_be_put_where_it_belongs() -> None:
    stale = [f"{f['room']}: {f['name']}" for f in FAULTS if (PACKAGE / f["file"]).read_text().count(f["old"]) != 1]
    assert not stale


def test_a_fault_changes_what_runs_and_leaves_a_program() -> None:
    for fault in FAULTS:
        text = (PACKAGE / fault["file"]).read_text()
        changed = text.replace(fault["old"], fault["new"])
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), fault["name"]


def test_every_fault_has_its_own_name_and_tests_that_are_there() -> None:
    assert max(Counter((f["room"], f["name"]) for f in FAULTS).values()) == 1
    for fault in FAULTS:
        assert fault.keys() == {"room", "name", "file", "old", "new", "tests"}
        for test in fault["tests"]:
            assert (HERE.parent / fault["room"] / test.partition("::")[0]).exists(), fault["name"]


def test_every_room_that_decides_has_faults() -> None:
    assert {fault["room"] for fault in FAULTS} >= {"stats", "locating", "studies"}
    assert len(FAULTS) >= 30
