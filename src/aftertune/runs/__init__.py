"""Files read within bounds and written whole; what one run leaves on disk and says on the way."""

from aftertune.runs._atomic import (
    explain_storage,
    file_digest,
    new_folder,
    refuse_taken_folder,
    write_bytes,
    write_json,
    write_text,
)
from aftertune.runs._folder import (
    MANIFEST,
    MEND,
    RunFolder,
    default_folder,
    entered,
    explain_damage,
    fingerprint,
    read_manifest,
    refuse_other_model,
    versions,
)
from aftertune.runs._journal import Journal
from aftertune.runs._parsing import (
    Unparsable,
    YamlDocument,
    decode,
    parse_json,
    parse_json_array,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
)
from aftertune.runs._progress import Plain, Progress, Rich, Silent, Step, choose_progress
from aftertune.runs._reading import open_regular, read_bounded, require_regular, require_regular_inside
from aftertune.runs._secrets import without_secrets
from aftertune.runs._store import Store, cache_root, shared_store
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
    "Store",
    "Unparsable",
    "YamlDocument",
    "cache_root",
    "choose_progress",
    "decode",
    "default_folder",
    "entered",
    "explain_damage",
    "explain_storage",
    "file_digest",
    "fingerprint",
    "new_folder",
    "open_regular",
    "parse_json",
    "parse_json_array",
    "parse_yaml",
    "read_bounded",
    "read_document",
    "read_json",
    "read_manifest",
    "read_text",
    "read_yaml",
    "refuse_other_model",
    "refuse_taken_folder",
    "require_regular",
    "require_regular_inside",
    "shared_store",
    "stored_as",
    "stored_identity",
    "stored_text",
    "versions",
    "without_secrets",
    "write_bytes",
    "write_json",
    "write_text",
]
