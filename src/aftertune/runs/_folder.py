"""Run folders: a manifest, a lock, and who may enter."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from aftertune.errors import AftertuneError, OutputError, RunError
from aftertune.runs._atomic import explain_storage, write_json
from aftertune.runs._reading import require_regular_inside
from aftertune.runs._secrets import command_without_secrets, values_without_secrets
from aftertune.runs._stored import read_document

_PACKAGES = ("aftertune", "torch", "transformers", "tokenizers", "peft", "trl", "datasets", "numpy", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Platform, core count and the command that was given (keys and passwords in it hidden), for a manifest."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py" and Path(sys.argv[0]).parent.name == "aftertune":
        program = "aftertune"
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "command": shlex.join([program, *command_without_secrets(sys.argv[1:])]) if program == "aftertune" else "",
    }


MANIFEST = "manifest.json"
MEND = "run the same command again in a new folder"
_LOCK = ".lock"
_KEYS = {"verb": str, "config": dict, "fingerprint": str, "status": str}
_FURTHER = {"versions": dict, "asked": list, "command": str}
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError)
# Libraries that read such files, or fill a report from them, with errors of their own.
_READERS = ("jinja2", "pyarrow", "pydantic", "pydantic_core", "safetensors", "safetensors_rust")


def fingerprint(config: Any) -> str:
    """SHA-256 of a configuration: equal for equal content, whatever the order of its keys."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        OutputError: the folder holds none, or a damaged one.
    """
    require_regular_inside(folder)
    try:
        manifest = read_document(folder / MANIFEST)
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{folder}: is no run folder (no readable {MANIFEST})") from error
    if not isinstance(manifest, dict) or not _KEYS.keys() <= manifest.keys():
        raise OutputError(f"{folder}: its {MANIFEST} was not written by aftertune")
    for key, kind in {**_KEYS, **_FURTHER}.items():
        if key in manifest and not isinstance(manifest[key], kind):
            raise OutputError(f"{folder}: its {MANIFEST} is damaged ('{key}' is {_kind(manifest[key])}); {MEND}")
    if manifest["status"] not in ("running", "finished"):
        raise OutputError(f"{folder}: its {MANIFEST} is damaged ('status' is unknown); {MEND}")
    if not all(isinstance(task, dict) for task in manifest.get("asked", [])):
        raise OutputError(f"{folder}: its {MANIFEST} is damaged ('asked' holds no list of tasks); {MEND}")
    found: dict[str, Any] = manifest
    return found


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


@contextlib.contextmanager
def explain_damage(folder: Path) -> Iterator[None]:
    """Turn what Python raises over the content of a damaged run folder into one line.

    Only what reads such files belongs into the block: an error of any other kind would be blamed on the folder.

    Raises:
        OutputError: a file of the folder is missing, or holds something else than aftertune wrote.
    """
    try:
        yield
    except AftertuneError:
        raise
    except FileNotFoundError as error:
        missing = Path(str(error.filename or folder)).name
        raise OutputError(f"{folder}: is incomplete ({missing} is missing); {MEND}") from error
    except Exception as error:
        readers = type(error).__module__.partition(".")[0] in _READERS
        if not (readers or isinstance(error, (OSError, *_DAMAGE))):
            raise
        reason = (error.strerror or "") if isinstance(error, OSError) else _reason(error)
        raise OutputError(f"{folder}: is damaged ({reason or type(error).__name__}); {MEND}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing" if error.args else ""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:120]


class RunFolder:
    """The folder of one run of one configuration.

    Args:
        path: where; made by `locked` unless it exists.
        verb: what runs: "audit", "measure", "demo", "tune".
        config: everything that determines the outcome, as JSON values. The same configuration goes on with
            an unfinished run and finds a finished one; another is refused.
        flag: the option that names the folder, for complaints.
    """

    def __init__(self, path: Path, verb: str, config: Mapping[str, Any], *, flag: str = "--out") -> None:
        self.path = path
        self.verb = verb
        self.flag = flag
        self.config: dict[str, Any] = values_without_secrets(json.loads(json.dumps(config, default=str)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Make or enter the folder, keep other processes out, and check that it is this run's.

        Raises:
            OutputError: it holds something else, another process is in it, or it may not be written.
        """
        with explain_storage(self.path, self.flag):
            self._refuse_other()
            self.path.mkdir(parents=True, exist_ok=True)
            require_regular_inside(self.path)  # opening a pipe would wait for its other end
            lock = (self.path / _LOCK).open("w")
        with lock:
            try:
                # Released by the system when the process ends, however it ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(f"{self.path}: another process is at work in it; wait for it, or stop it") from None
            self._refuse_other()
            if not (self.path / MANIFEST).exists():
                self._begin()
            yield self

    def _refuse_other(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: is a file; name a new folder with {self.flag}")
        if not self.path.exists() or _is_empty(self.path):
            return
        if not (self.path / MANIFEST).exists():
            raise OutputError(f"{self.path}: exists and is no run folder; name a new one with {self.flag}")
        held = read_manifest(self.path)
        if held["verb"] != self.verb:
            raise OutputError(f"{self.path}: holds a run of `{held['verb']}`; name another folder with {self.flag}")
        if held["config"] != self.config:
            changed = ", ".join(_differences(held["config"], self.config)[:3])
            raise OutputError(
                f"{self.path}: holds a run with other settings (differing: {changed}); "
                f"name another folder with {self.flag}"
            )
        made_by, mine = held.get("versions", {}).get("aftertune"), versions().get("aftertune")
        if made_by != mine:
            raise OutputError(
                f"{self.path}: was made by aftertune {made_by}, this is {mine}; name another folder with {self.flag}"
            )

    def _begin(self) -> None:
        write_json(
            self.path / MANIFEST,
            {
                "verb": self.verb,
                "status": "running",
                "started": _now(),
                **machine(),
                "versions": versions(),
                "fingerprint": fingerprint([self.verb, self.config]),
                "config": self.config,
            },
        )

    @property
    def busy(self) -> bool:
        """Whether another process is at work in the folder now."""
        with contextlib.suppress(FileNotFoundError), (self.path / _LOCK).open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def manifest(self) -> dict[str, Any]:
        """What is on disk now."""
        return read_manifest(self.path)

    @property
    def finished(self) -> bool:
        """Whether this run has been brought to its end."""
        return bool(self.manifest["status"] == "finished")

    def folder(self, *parts: str) -> Path:
        """A folder inside, made if need be."""
        path = self.path.joinpath(*parts)
        with explain_storage(path, self.flag):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def write_manifest(self, *, status: str, **facts: Any) -> None:
        """Add facts to the manifest and set its status; the first "finished" also sets the time."""
        manifest = {**self.manifest, "status": status, **facts}
        if status == "finished":
            manifest.setdefault("finished", _now())
        write_json(self.path / MANIFEST, manifest)


def _is_empty(folder: Path) -> bool:
    return all(entry.name == _LOCK or entry.name.startswith(f".{MANIFEST}.") for entry in folder.iterdir())


def _differences(held: Any, asked: Any, prefix: str = "") -> list[str]:
    if not (isinstance(held, dict) and isinstance(asked, dict)):
        return [prefix or "all"] if held != asked else []
    return [
        found
        for key in sorted({*held, *asked})
        for found in _differences(held.get(key, ...), asked.get(key, ...), f"{prefix}.{key}".lstrip("."))
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def entered(run: RunFolder) -> Iterator[None]:
    """`RunFolder.locked`, but a run that is refused before its first number leaves no trace in a new folder.

    Raises:
        OutputError: see `RunFolder.locked`.
    """
    with explain_storage(run.path):
        absent = [path for path in (run.path, *run.path.parents) if not path.exists()]
        new = bool(absent) or (run.path.is_dir() and not any(run.path.iterdir()))
    with run.locked():
        try:
            yield
        except AftertuneError as error:
            # Under the lock, so that no other process's run is taken for a refused one.
            with contextlib.suppress(OSError):
                if new and not _has_work(run.path, journals=isinstance(error, RunError)):
                    _clear(run.path, absent)
            raise


def _has_work(folder: Path, *, journals: bool) -> bool:
    """Whether a run left more than locks and its manifest; its own journals count if they may be continued."""
    small = {folder / "manifest.json", *(() if journals else folder.glob("*.jsonl"))}
    files = (path for path in folder.rglob("*") if path.is_file() and ".lock" not in (path.name, path.suffix))
    return any(path not in small for path in files)


def _clear(folder: Path, made: Sequence[Path]) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in made:
        path.rmdir()


def default_folder(verb: str, config: Mapping[str, Any]) -> Path:
    """``runs/VERB-xxxxxxxx``: the same configuration, the same folder."""
    return Path("runs") / f"{verb}-{fingerprint(config)[:8]}"


def refuse_other_model(run: RunFolder, role: str, content: Mapping[str, Any]) -> None:
    """Note in the manifest which model has a role, or refuse another one than before.

    Files, and what the hub says, are compared before a model is loaded; this is what was loaded.

    Args:
        run: entered.
        role: of the model in the run, such as "base".
        content: what decides its numbers, as JSON values.

    Raises:
        OutputError: the run was begun with another model in this role, or in another precision or on another device.
    """
    manifest = run.manifest
    known = manifest.get("models", {})
    if not isinstance(known, dict):
        raise OutputError(f"{run.path}: its manifest.json is damaged (models); name another folder with {run.flag}")
    now = dict(content)
    then = known.get(role)
    if then is None:
        run.write_manifest(status=manifest["status"], models={**known, role: now})
        return
    if fingerprint(then) != fingerprint(now):
        differing = (
            sorted(key for key in {*then, *now} if then.get(key) != now.get(key)) if isinstance(then, dict) else []
        )
        what = ", ".join(differing) or "another model"
        raise OutputError(
            f"{run.path}: was begun with another {role} (differing: {what}); name another folder with {run.flag}"
        )
