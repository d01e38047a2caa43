"""Deliberate faults, one at a time, and whether the tests catch them.

    python tests/mutants/run.py                    every fault (a quarter of an hour)
    python tests/mutants/run.py --room studies     those of one room
    python tests/mutants/run.py --name transfer    those whose name holds a text
    python tests/mutants/run.py --list             what there is

A fault is an exact replacement in a copy of the package; the repository is never touched. It is caught where a test
fails. The tests named beside a fault are tried first, and what they let through is tried on all tests of its room.
First the same tests run on a copy without a fault: where they fail there, nothing is told.

Exits with 0 if at least 19 of 20 faults are caught, 1 if fewer are, 2 if the list or the tests are not in order.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
SOURCE = REPOSITORY / "src"
ROOMS = tuple(sorted(path.stem for path in HERE.glob("*.toml")))


@dataclass(frozen=True)
class Fault:
    """One deliberate fault.

    Attributes:
        room: whose tests must catch it.
        name: what is wrong then.
        file: below the package's folder.
        old: text that stands there exactly once.
        new: what takes its place.
        tests: below the room's test folder; tried before all others.
    """

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def written_into(self, source: Path) -> None:
        """Put the fault into a copy of ``src``.

        Raises:
            ValueError: the text to replace does not stand there exactly once.
        """
        path = source / "aftertune" / self.file
        text = path.read_text("utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.room}: {self.name}: the old text stands {text.count(self.old)} times in {self.file}"
            )
        path.write_text(text.replace(self.old, self.new), "utf-8")


def faults(room: str | None = None, name: str = "") -> list[Fault]:
    """The faults of a room, or of all, whose name holds a text."""
    found = []
    for one in ROOMS if room is None else (room,):
        rows = tomllib.loads((HERE / f"{one}.toml").read_text("utf-8"))["fault"]
        found += [Fault(one, **{**row, "tests": tuple(row["tests"])}) for row in rows]
    return [fault for fault in found if name in fault.name]


def fails(source: Path, tests: list[str]) -> bool:
    """Whether tests of the repository fail on a copy of ``src``.

    Raises:
        RuntimeError: they could not be run.
    """
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"the tests could not be run (exit {done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-500:]}"
        )
    return done.returncode == 1


def copied(folder: Path, fault: Fault | None = None) -> Path:
    """A copy of ``src``, with a fault in it."""
    source = folder / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    if fault:
        fault.written_into(source)
    return source


def refuse_other_package(source: Path) -> None:
    """Refuse an interpreter in which another package than the copy would be tested.

    Raises:
        RuntimeError: it would.
    """
    found = subprocess.run(
        [sys.executable, "-c", "import aftertune; print(aftertune.__file__)"],
        env={**os.environ, "PYTHONPATH": str(source)}, cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    if not Path(found).is_relative_to(source):
        raise RuntimeError(f"the tests would run on {found}, not on the copy in {source}")


def check(chosen: list[Fault], folder: Path) -> int:
    """Try every fault; print what became of it.

    Returns:
        How many were caught.
    """
    source = copied(folder)
    refuse_other_package(source)
    first = dict.fromkeys(f"tests/{fault.room}/{test}" for fault in chosen for test in fault.tests)
    if fails(source, list(first)):
        raise RuntimeError("the tests fail without any fault; see pytest " + " ".join(first))
    caught = 0
    for fault in chosen:
        start = time.monotonic()
        source = copied(folder, fault)
        room = f"tests/{fault.room}"
        found = fails(source, [f"{room}/{test}" for test in fault.tests]) or fails(source, [room])
        caught += found
        said = "caught  " if found else "SURVIVED"
        print(f"{said}  {fault.room}: {fault.name}  ({time.monotonic() - start:.0f} s)", flush=True)
    return caught


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", choices=ROOMS, help="only the faults of this room")
    parser.add_argument("--name", default="", help="only faults whose name holds this text")
    parser.add_argument("--list", action="store_true", help="print the faults and try none")
    options = parser.parse_args()
    chosen = faults(options.room, options.name)
    if options.list:
        for fault in chosen:
            print(f"{fault.room}: {fault.name}")
        return 0
    if not chosen:
        print(f"no fault is called {options.name!r}", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="aftertune-fault-") as folder:
            caught = check(chosen, Path(folder))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{caught} of {len(chosen)} caught")
    return 0 if 20 * caught >= 19 * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
