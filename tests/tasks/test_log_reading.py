"""Archives are looked at before they are unpacked, and heads are read without the answers."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import match
from inspect_ai.solver import Generate, Solver, TaskState, solver

from aftertune.errors import DataError
from aftertune.inspect_bridge import _log_files, read_log_head
from aftertune.inspect_bridge._log_files import raw_head, read_head, read_whole
from aftertune.inspect_bridge._samples import resolved


@solver
def canned() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("mockllm/one", "so it is")
        return state

    return solve


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [Sample(id=n, input=f"ask {n}", target="x" * 300) for n in range(3)]
    task = Task(dataset=MemoryDataset(rows), solver=canned(), scorer=match(), name="odd")
    [log] = eval(task, model="mockllm/one", log_dir=str(tmp_path_factory.mktemp("logs")), display="none")
    assert log.status == "success"
    return Path(log.location)


def with_member(good: Path, made: Path, name: str, content: bytes, method: int) -> zipfile.ZipInfo:
    """The archive with one member replaced."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(made, "w") as target:
        for member in source.infolist():
            if member.filename != name:
                target.writestr(member.filename, source.read(member), compress_type=zipfile.ZIP_DEFLATED)
        target.writestr(name, content, compress_type=method)
        return target.getinfo(name)


SAMPLE = "samples/0_epoch_1.json"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, 93], ids=["deflate", "zstd"])
@pytest.mark.parametrize("name", [SAMPLE, "header.json"])
def test_a_member_that_unpacks_a_thousandfold_is_not_read(good: Path, tmp_path: Path, name: str, method: int) -> None:
    bomb = b'{"id":"' + b"x" * (24 << 20) + b'"}'
    with_member(good, tmp_path / "bomb.eval", name, bomb, method)
    for read in (read_head, read_whole):
        with pytest.raises(DataError, match=rf"{name} in it unpacks to 24 MiB from 0 MiB, as no log of Inspect does"):
            read(tmp_path / "bomb.eval")


def test_many_small_members_are_bounded_together(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "many.eval", "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
        for number in range(3):
            target.writestr(f"samples/{number}_epoch_9.json", b"x" * (12 << 20))
    with pytest.raises(DataError, match=r"unpacks to 36 MiB from 0 MiB"):
        read_head(tmp_path / "many.eval")
    monkeypatch.setattr(_log_files, "MAX_LOG", 1 << 20)
    with pytest.raises(DataError, match=r"unpacks to 36 MiB, more than the 1 MiB that are read of one log"):
        read_head(tmp_path / "many.eval")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, 93], ids=["deflate", "zstd"])
def test_a_member_that_says_less_than_it_unpacks_to_is_not_read(good: Path, tmp_path: Path, method: int) -> None:
    path = tmp_path / "lie.eval"
    with_member(good, path, SAMPLE, b"x" * (4 << 20), method)
    raw = path.read_bytes()
    assert raw.count(struct.pack("<L", 4 << 20)) >= 1
    path.write_bytes(raw.replace(struct.pack("<L", 4 << 20), struct.pack("<L", 1000)))
    with pytest.raises(DataError, match=rf"{SAMPLE} in it unpacks to another size than it says"):
        read_whole(path)


def test_other_ways_of_packing_are_refused(good: Path, tmp_path: Path) -> None:
    with_member(good, tmp_path / "bz.eval", SAMPLE, b"{}", zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match=r"compressed in a way that Inspect does not use"):
        read_head(tmp_path / "bz.eval")


def test_a_text_that_refers_to_a_long_one_many_times_is_bounded(good: Path) -> None:
    log = read_eval_log(str(good))
    assert log.samples
    sample = log.samples[0]
    sample.attachments = {"a" * 32: "long " * 1000}
    once = f"see attachment://{'a' * 32}"
    assert resolved(once, sample) == "see " + "long " * 1000
    assert resolved("see attachment://" + "b" * 32, sample).endswith("b" * 32)
    with pytest.raises(DataError, match=r"refers to more than 64 MiB"):
        resolved(once * 20_000, sample)


@pytest.mark.parametrize("form", ["eval", "json"])
def test_a_head_is_read_without_the_answers(good: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"log.{form}"
    write_eval_log(read_eval_log(str(good)), str(path))
    assert read_head(path).samples is None
    assert len(read_whole(path).samples or []) == 3
    head = read_log_head(path)
    assert (head.task, head.model, head.status) == ("odd", "mockllm/one", "success")
    raw = raw_head(path)
    assert raw["eval"]["task"] == "odd"
    assert not raw.get("samples")
    if form == "json":  # what lies behind the head is not even parsed
        text = path.read_text()
        path.write_text(text[: text.index('"samples": [')] + '"samples": [{"id": oh')
        assert raw_head(path) == raw


def test_damage_is_told_in_a_line(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    damaged: dict[str, Any] = {
        "cut.eval": content[:-40], "text.eval": b"hello", "list.json": b"[1]", "none.json": b"{}", "empty.eval": b"",
        "deep.json": b'{"eval":' + b"[" * 100_000, "mixed.json": content[:60],
    }  # fmt: skip
    for name, damage in damaged.items():
        (tmp_path / name).write_bytes(damage)
        for read in (read_head, read_whole):
            with pytest.raises(DataError, match=r"is not a log of Inspect|in it unpacks") as refused:
                read(tmp_path / name)
            assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="no such file"):
        read_head(tmp_path)


def test_what_a_log_says_survives_the_way_it_is_read(good: Path) -> None:
    plain, ours = read_eval_log(str(good)), read_whole(good)

    def told(log: EvalLog) -> Any:
        return json.loads(log.model_dump_json(exclude={"location"}))

    assert told(ours) == told(plain)
