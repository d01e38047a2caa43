"""A redacted run loads no .env and leaves no trace; any other does what Inspect does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aftertune.inspect_bridge._checks import NO_DOTENV, inspect_files

KEY = "AFTERTUNE_TEST_OF_DOTENV"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "below"
    folder.mkdir()
    (tmp_path / ".env").write_text(f"{KEY}=loaded\n", "utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("INSPECT_TRACE_FILE", str(tmp_path / "trace.log"))
    monkeypatch.setenv(KEY, "")
    monkeypatch.delenv(KEY)  # what a test sets is taken back afterwards
    monkeypatch.delenv(NO_DOTENV, raising=False)
    return tmp_path


def start_of_an_eval() -> None:
    """What Inspect does when tasks start."""
    from inspect_ai._eval.context import init_runtime_context

    init_runtime_context()


def test_an_ordinary_run_has_the_keys_of_dotenv_before_judges_are_made() -> None:
    with inspect_files(redact=False):
        assert os.environ[KEY] == "loaded"


@pytest.mark.parametrize("by", ["redact", "variable"])
def test_dotenv_is_left_alone(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "variable":
        monkeypatch.setenv(NO_DOTENV, "1")
    with inspect_files(redact=by == "redact"):
        start_of_an_eval()
        assert KEY not in os.environ
    start_of_an_eval()  # as Inspect does by itself
    assert os.environ.pop(KEY) == "loaded"


def test_a_redacted_run_writes_no_trace(place: Path) -> None:
    import logging

    from inspect_ai._util.logger import init_logger

    with inspect_files(redact=True):
        init_logger("error")
        logging.getLogger("inspect_ai").error("a text that must not be left anywhere")
    left = [path for path in place.rglob("*") if path.is_file() and path.name != ".env"]
    assert not [path for path in left if b"must not be left" in path.read_bytes()]
    assert not (place / "trace.log").exists()
