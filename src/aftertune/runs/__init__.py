"""What one run leaves on disk and says on the way: folder, manifest, journal, progress."""

from aftertune.runs._atomic import explain_storage, file_digest, write_bytes, write_json, write_text
from aftertune.runs._folder import MANIFEST, MEND, RunFolder, explain_damage, fingerprint, read_manifest
from aftertune.runs._journal import Journal
from aftertune.runs._machine import versions
from aftertune.runs._new_folder import new_folder, refuse_taken_folder
from aftertune.runs._progress import Plain, Progress, Rich, Silent, Step, choose_progress
from aftertune.runs._secrets import without_secrets
from aftertune.runs._stored import read_document, stored_as, stored_identity, stored_text

__all__ = [
    "MANIFEST",
    "MEND",
    "Journal",
    "Plain",
    "Progress",
    "Rich",
    "RunFolder",
    "Silent",
    "Step",
    "choose_progress",
    "explain_damage",
    "explain_storage",
    "file_digest",
    "fingerprint",
    "new_folder",
    "read_document",
    "read_manifest",
    "refuse_taken_folder",
    "stored_as",
    "stored_identity",
    "stored_text",
    "versions",
    "without_secrets",
    "write_bytes",
    "write_json",
    "write_text",
]
