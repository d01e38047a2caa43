"""Only regular files are read, and no more of them than fits; what is no file is refused at once."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.data import read_contrasts, read_requests, read_rows, read_statements, read_truthfulqa, read_tuning_rows
from aftertune.errors import AftertuneError, DataError, ExitCode
from aftertune.model import parse_spec, read_patch
from aftertune.runs import (
    Journal,
    file_digest,
    open_regular,
    read_bounded,
    read_json,
    read_manifest,
    read_text,
    read_yaml,
    require_regular,
    require_regular_inside,
)
from aftertune.stats import read_policy
from aftertune.tasks import read_questions, read_request_files
from aftertune.tasks._harmfulness import read_forbidden
from aftertune.tuning import read_record

Read = Callable[[Path], object]

READERS: dict[str, Read] = {
    "rows": read_rows,
    "tuning rows": read_tuning_rows,
    "contrasts": read_contrasts,
    "statements": read_statements,
    "requests": read_requests,
    "TruthfulQA": read_truthfulqa,
    "requests of a benchmark": lambda path: read_request_files(str(path.with_suffix(".csv")), "unsafe"),
    "questions": read_questions,
    "policy": read_policy,
    "forbidden": lambda path: read_forbidden(str(path)),
    "chat template": lambda path: _read_template(str(path)),
    "patch": read_patch,
    "spec": lambda path: parse_spec(str(path)),
    "journal": Journal,
    "digest": file_digest,
    "json": lambda path: read_json(path, 10),
    "yaml": lambda path: read_yaml(path, 10),
    "text": lambda path: read_text(path, 10),
    "bytes": lambda path: read_bounded(path, 10),
}


def _read_template(choice: str) -> object:
    from aftertune.model._chat import read_template

    return read_template(choice)


@pytest.fixture(params=["pipe", "link to a pipe", "socket", "device"])
def endless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path that is no file, by the name ``odd.csv`` as well."""
    monkeypatch.chdir(tmp_path)
    path = Path("odd.csv")
    if request.param == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind("odd.csv")
        server.close()
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo("pipe")
        path.symlink_to("pipe")
    return path


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_what_is_no_file(endless: Path, reader: str) -> None:
    with pytest.raises(AftertuneError) as caught:
        READERS[reader](endless)
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "no regular file" in text
    assert "odd.csv" in text
    assert text.isprintable()


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "model.safetensors", "tokenizer.json"])
def test_no_model_folder_with_a_pipe_in_it_is_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: is a pipe, no regular file"):
        parse_spec(str(tmp_path))


@pytest.mark.parametrize("name", ["manifest.json", "verdict.json", ".lock"])
def test_no_run_folder_with_a_pipe_in_it_is_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: is a pipe"):
        read_manifest(tmp_path)


def test_a_record_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aftertune.json")
    with pytest.raises(DataError, match="is a pipe"):
        read_record(tmp_path)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_what_a_shell_substitutes_is_a_pipe_and_a_redirected_file_is_a_file(tmp_path: Path) -> None:
    out, into = os.pipe()
    try:
        os.write(into, b'{"a": 1}\n')
        with pytest.raises(DataError, match=rf"/dev/fd/{out}: is a pipe, no regular file; save its content"):
            read_rows(f"/dev/fd/{out}")
    finally:
        os.close(out)
        os.close(into)
    (tmp_path / "rows").write_text('{"a": 1}\n')
    with (tmp_path / "rows").open() as file:
        assert read_rows(f"/dev/fd/{file.fileno()}")[0].fields == {"a": 1}


def test_links_are_followed_and_what_is_not_there_is_left_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    require_regular_inside(tmp_path)
    for name in ("file", "link", "dangling", "folder", "nothing", "x" * 5000, "a\0b"):
        require_regular(tmp_path / name)
    require_regular_inside(tmp_path / "nothing")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "dangling")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path / "folder")


def test_a_file_is_read_up_to_its_bound_and_never_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2**10)
    assert read_bounded(path, 2**10) == b"x" * 2**10
    path.write_bytes(b"x" * (2**10 + 1))
    with pytest.raises(DataError, match="is larger than 1 KiB"):
        read_bounded(path, 2**10)


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files")
@pytest.mark.parametrize("reader", ["rows", "TruthfulQA", "policy", "questions", "forbidden"])
def test_a_huge_file_is_not_read_whole(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "huge.csv"
    path.write_bytes(b"Question")
    os.truncate(path, 2**40)
    with pytest.raises(AftertuneError, match=r"(larger|longer) than"):
        READERS[reader](path)
    array = tmp_path / "huge.json"
    array.write_bytes(b"[")
    os.truncate(array, 2**40)
    with pytest.raises(DataError, match="more than 1 GiB"):
        read_rows(array)
