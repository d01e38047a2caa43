from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

Start = Callable[..., subprocess.Popen[str]]


def _mount(folder: Path, *options: str) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only the superuser may mount a small file system")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("no file system may be mounted here, not even by the superuser")


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own; the test fills it as far as it likes."""
    folder = tmp_path / "small"
    _mount(folder, "-t", "tmpfs", "-o", "size=64k", "none")
    try:
        yield folder
    finally:
        _unmount(folder)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with one file, `old.txt`, in which nothing may be changed, whoever one is."""
    folder = tmp_path / "fixed"
    _mount(folder, "-t", "tmpfs", "-o", "size=64k", "none")
    try:
        (folder / "old.txt").write_text("old")
        _mount(folder, "-o", "remount,ro")
        yield folder
    finally:
        _unmount(folder)


@pytest.fixture
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow beyond so many bytes: a write that fails midway, without any privilege."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python code in a process of its own, with its output to be read; ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()
