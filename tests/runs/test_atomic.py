"""Files are whole or absent, whatever stops the writing, and every refusal is one line that names the place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.errors import AftertuneError, DataError, ExitCode, OutputError, StorageError
from aftertune.runs import explain_storage, file_digest, write_bytes, write_json, write_text

Limit = Callable[[int], AbstractContextManager[None]]
Writer = Callable[[Path], object]


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"one\n", bytes(range(256)) * 5000])
def test_what_is_written_is_what_is_read_and_nothing_else_is_left(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    for earlier in (b"something older and longer" * 100_000, b""):
        write_bytes(path, earlier)
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert entries(tmp_path) == ["result.bin"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_the_umask_decides_who_may_read(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "result.txt", "x")
        (tmp_path / "ordinary.txt").write_text("x")
    finally:
        after = os.umask(before)
    assert after == mask
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("result.txt", "ordinary.txt")]
    assert modes == [0o666 & ~mask] * 2


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    write_text(path, "a" * 300_000)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for letter in "ab":
                write_text(path, letter * 300_000)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = [path.read_text() for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert {len(text) for text in seen} == {300_000}
    assert {"".join(sorted(set(text))) for text in seen} <= {"a", "b"}
    assert entries(tmp_path) == ["result.txt"]


def test_a_write_that_fails_midway_leaves_the_old_content_and_no_part_of_the_new(
    tmp_path: Path, file_limit: Limit
) -> None:
    path = tmp_path / "result.txt"
    write_text(path, "old")
    with file_limit(1000), pytest.raises(StorageError, match="no space left"):
        write_text(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["result.txt"]
    write_text(path, "new" * 10_000)
    assert path.read_text() == "new" * 10_000


def test_a_full_disk_leaves_the_old_content_and_no_part_of_the_new(small_disk: Path) -> None:
    path = small_disk / "result.txt"
    write_text(path, "old")
    with pytest.raises(StorageError, match=r"/result\.txt: no space left on the disk; free some .* same command") as it:
        write_text(path, "new" * 50_000)
    assert it.value.exit_code == ExitCode.BROKEN == 4
    assert path.read_text() == "old"
    assert entries(small_disk) == ["result.txt"]
    write_text(path, "new" * 100)
    assert path.read_text() == "new" * 100


def test_a_read_only_place_is_refused_and_untouched(read_only: Path) -> None:
    with pytest.raises(OutputError, match=r"/old\.txt: cannot be written \(read-only file system\); .*--out") as caught:
        write_text(read_only / "old.txt", "new")
    assert caught.value.exit_code == ExitCode.USAGE == 2
    assert (read_only / "old.txt").read_text() == "old"
    assert entries(read_only) == ["old.txt"]


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match=r"permission denied"):
            write_text(tmp_path / "result.txt", "x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/result.txt", "not a directory"),
        ("absent/result.txt", "no such file or directory"),
        ("folder", "is a directory"),
        ("long/" + "x" * 300, "file name too long"),
    ],
)
def test_an_impossible_place_is_refused_by_its_own_name(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "long").mkdir()
    with pytest.raises(OutputError) as caught:
        write_text(tmp_path / place, "x")
    assert str(caught.value) == f"{tmp_path / place}: cannot be written ({reason}); choose another folder with --out"
    assert entries(tmp_path) == ["file", "folder", "long"]
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_the_kernels_own_files_are_refused() -> None:
    with pytest.raises(OutputError, match=r"^/proc/result\.txt: cannot be written"):
        write_text(Path("/proc/result.txt"), "x")


# --- text and JSON --------------------------------------------------------------------------------------


def test_characters_that_utf8_cannot_hold_do_not_stop_a_report(tmp_path: Path) -> None:
    write_text(tmp_path / "report.html", "caf\udce9 – Zürich")
    assert (tmp_path / "report.html").read_bytes() == "caf? – Zürich".encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ODD = [{"path": "caf\udce9/\ud800"}, ["\\udce9", "\udce9"], "😀", 0.1 + 0.2, {"ü": -0.0}]


@given(json_values)
@settings(max_examples=60, deadline=None)
def test_any_document_reads_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, document)
    assert json.loads(path.read_text("utf-8")) == document


@pytest.mark.parametrize("document", ODD)
def test_lone_surrogates_and_odd_numbers_read_back_as_they_were(document: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "odd.json", document)
    assert repr(json.loads((tmp_path / "odd.json").read_text("utf-8"))) == repr(document)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_hold_are_refused_and_the_old_file_stays(number: float, tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "r.json", {"value": [number]})
    assert json.loads((tmp_path / "r.json").read_text()) == {"value": 1}
    assert entries(tmp_path) == ["r.json"]


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "large") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


# --- errors in words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        *((n, StorageError) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)),
        *((n, OutputError) for n in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)),
        *((n, OutputError) for n in (errno.ENOENT, errno.EISDIR, errno.EEXIST, errno.ELOOP)),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else value.__name__,
)
def test_each_complaint_of_the_system_becomes_ours(number: int, expected: type[AftertuneError]) -> None:
    with pytest.raises(AftertuneError) as caught, explain_storage(Path("out/result.json")):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is expected
    assert str(caught.value).startswith("out/result.json: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), OSError("without a number"), RuntimeError("bad shape")],
)
def test_what_has_nothing_to_do_with_storage_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explain_storage(Path("out")):
        raise error
    assert caught.value is error


def test_our_own_errors_pass_as_they_are() -> None:
    error = DataError("No space left on device is only quoted here", path="rows.jsonl", line=3)
    with pytest.raises(DataError) as caught, explain_storage(Path("out")):
        raise error
    assert caught.value is error


def test_the_ancestor_that_is_to_blame_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    deep = tmp_path / "file" / "a" / "b"
    with pytest.raises(OutputError) as caught, explain_storage(deep):
        deep.mkdir(parents=True)
    assert str(caught.value).startswith(f"{tmp_path / 'file'}")


def _safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(100_000)}, path)


def _torch(path: Path) -> None:
    import torch

    torch.save(torch.zeros(100_000), path)


def _tokenizers(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word-{i}": i for i in range(20_000)}, unk_token="word-0")).save(str(path))


def _parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"value": [i * 0.1 for i in range(50_000)]}), path)


NATIVE = pytest.mark.parametrize("write", [_safetensors, _torch, _tokenizers, _parquet], ids=lambda w: w.__name__[1:])


@NATIVE
def test_a_full_disk_under_a_native_library_is_told_as_such(write: Writer, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 50_000)
    with pytest.raises(StorageError, match=r"model: no space left on the disk"), explain_storage(small_disk / "model"):
        write(small_disk / "model")


@NATIVE
def test_a_file_that_may_not_grow_under_a_native_library_is_told_as_such(
    write: Writer, tmp_path: Path, file_limit: Limit
) -> None:
    write(tmp_path / "unlimited")  # also imports what is needed
    with (
        pytest.raises(StorageError, match=r"model: no space left on the disk"),
        explain_storage(tmp_path / "model"),
        file_limit(4096),
    ):
        write(tmp_path / "model")
