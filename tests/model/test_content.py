"""What a subject is made of, told without loading it: every file of the chain counts, wherever it lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from aftertune.errors import PatchError, SubjectError, UsageError
from aftertune.model import SubjectChoice, subject_content


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, an adapter upon an adapter upon it, a patch, a template and a tokenizer folder, as bare files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AFTERTUNE_SMOLLM2", raising=False)
    for name in ("model", "tokenizer"):
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}", "utf-8")
        Path(name, "tokenizer.json").write_text("{}", "utf-8")
    Path("model", "model.safetensors").write_bytes(b"weights")
    for name, base in (("lower", "model"), ("upper", "lower")):
        Path(name).mkdir()
        Path(name, "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}), "utf-8")
        Path(name, "adapter_model.safetensors").write_bytes(b"adapter")
    Path("p.safetensors").write_bytes(b"patch")
    Path("t.jinja").write_text("{{ messages }}", "utf-8")
    return tmp_path


def rewrite(path: str) -> None:
    """Another content of the same size, at the same time."""
    file = Path(path)
    stat = file.stat()
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


WHOLE: dict[str, Any] = {"spec": "upper+p.safetensors", "tokenizer": "tokenizer", "chat_template": "t.jinja"}


@pytest.mark.parametrize(
    "path",
    [
        "model/model.safetensors", "model/config.json", "model/tokenizer.json", "lower/adapter_model.safetensors",
        "upper/adapter_model.safetensors", "p.safetensors", "t.jinja", "tokenizer/tokenizer.json",
    ],
)  # fmt: skip
def test_every_file_of_the_chain_counts(path: str, place: Path) -> None:
    before = SubjectChoice(**WHOLE).config
    assert SubjectChoice(**WHOLE).config == before
    rewrite(path)
    assert SubjectChoice(**WHOLE).config != before


def test_where_it_lies_and_how_old_it_is_do_not(place: Path) -> None:
    before = subject_content("model")
    shutil.copytree("model", "copy")
    for file in Path("copy").iterdir():
        os.utime(file, ns=(10**18, 10**18))
    assert subject_content("copy") == before


def test_what_no_loader_reads_does_not_count(place: Path) -> None:
    before = subject_content("model")
    for name in ("README.md", "optimizer.pt", "pytorch_model.bin", ".cache", "consolidated.safetensors"):
        Path("model", name).write_text("x", "utf-8")
    Path("model", "checkpoint-10").mkdir()
    Path("model", "checkpoint-10", "model.safetensors").write_bytes(b"x")
    assert subject_content("model") == before


def test_nested_files_that_are_read_count(place: Path) -> None:
    Path("model", "model.safetensors").rename("model/model-1.safetensors")
    Path("model", "parts").mkdir()
    Path("model", "parts", "two.safetensors").write_bytes(b"second")
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "parts/two.safetensors", "c": "../p.safetensors"}}
    Path("model", "model.safetensors.index.json").write_text(json.dumps(shards), "utf-8")
    Path("model", "additional_chat_templates").mkdir()
    Path("model", "additional_chat_templates", "tools.jinja").write_text("x", "utf-8")
    files = subject_content("model")["files"]
    assert "../p.safetensors" not in files
    for name in ("model-1.safetensors", "parts/two.safetensors", "additional_chat_templates/tools.jinja"):
        before = subject_content("model")
        rewrite(f"model/{name}")
        assert subject_content("model") != before


def test_a_base_that_is_given_replaces_the_one_that_is_named(place: Path) -> None:
    shutil.copytree("model", "other")
    named = subject_content("lower")
    assert subject_content("lower", base="other") == named
    rewrite("model/model.safetensors")
    assert subject_content("lower", base="other") == named
    assert subject_content("lower") != named
    assert subject_content("model", base="absent") == subject_content("model")  # a whole model has none


def test_the_embedded_subject_is_what_stands_in_for_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(subject_content("smollm2")) == ["wheel"]
    monkeypatch.setenv("AFTERTUNE_SMOLLM2", str(place / "model"))
    before = subject_content("smollm2")
    assert before == subject_content("model")
    rewrite("model/model.safetensors")
    assert subject_content("smollm2") != before


def test_a_gguf_file_counts_by_content(place: Path) -> None:
    Path("a.gguf").write_bytes(b"GGUF1")
    before = subject_content("a.gguf")
    rewrite("a.gguf")
    assert subject_content("a.gguf") != before


def test_a_hub_model_is_its_commit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a branch that moved in the cache, the commit that it stands for now."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    refs = place / "hub" / "models--owner--name" / "refs"
    refs.mkdir(parents=True)
    commits = []
    for digit in "ab":
        (refs / "main").write_text(digit * 40, "utf-8")
        (refs.parent / "snapshots" / (digit * 40)).mkdir(parents=True)
        commits.append(subject_content("owner/name")["commit"])
    assert commits == ["a" * 40, "b" * 40]
    assert subject_content("owner/name@" + "c" * 40)["commit"] == "c" * 40


def test_adapters_that_come_back_to_themselves_are_refused(place: Path) -> None:
    Path("lower", "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "upper"}), "utf-8")
    with pytest.raises(SubjectError, match=r"comes back to it.*--base"):
        subject_content("upper")


def test_what_is_not_there_is_one_line(place: Path) -> None:
    os.mkfifo("pipe.safetensors")
    for problem, call in (
        (PatchError, lambda: subject_content("model+pipe.safetensors")),
        (UsageError, lambda: subject_content("model", chat_template="absent.jinja")),
        (SubjectError, lambda: subject_content("absent-model")),
    ):
        with pytest.raises(problem) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_broken_index_is_left_to_the_loader(place: Path) -> None:
    for text in ("[]", "{", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        Path("model", "model.safetensors.index.json").write_text(text, "utf-8")
        assert "model.safetensors" in subject_content("model")["files"]
