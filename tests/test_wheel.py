"""The package as it is shipped: built, installed by itself, and found by Inspect."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "INSPECT"))}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
        env={**inherited, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that holds the wheel, and finds what it depends on in this one; its Python."""
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", place, ROOT, cwd=place,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    [wheel] = place.glob("aftertune-*.whl")
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    done = run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    # A path file of a path file is not read, so the editable install of this environment stays out.
    [site] = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return python


@pytest.mark.slow
def test_the_wheel_is_what_is_imported_and_has_its_data(installed: Path, tmp_path: Path) -> None:
    code = (
        "import aftertune, aftertune.data as d; print(aftertune.__file__);"
        "print(sum(x.path.exists() for x in d.CATALOGUE if x.shipped), sum(x.shipped for x in d.CATALOGUE))"
    )
    done = run(installed, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, counts = done.stdout.splitlines()
    assert str(installed.parents[1]) in where
    found, shipped = counts.split()
    assert found == shipped


@pytest.mark.slow
def test_inspect_alone_runs_the_task(installed: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    """With Inspect's own provider as subject and ours as judge."""
    done = run(
        installed, "-m", "inspect_ai", "eval", "aftertune/emergent_misalignment", "--model", "hf/local",
        "-M", f"model_path={tiny_folder('llama')}", "--model-role", f"grader=aftertune/{tiny_folder('gpt2')}",
        "-T", "max_tokens=4", "--limit", "2", "--epochs", "1", "--display", "plain", "--log-dir", tmp_path / "logs",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "logs").glob("*.eval"))) == 1
    assert "misaligned_per_coherent" in done.stdout
