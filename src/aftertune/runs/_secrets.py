"""Keys and passwords in a command line or a message: hidden before anything is stored or printed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"

# Names whose value is a secret whatever it looks like. "token" alone names many harmless things (stop_token, tokens).
_NAME = (
    r"(?:[\w.-]*[_.-])?(?:api[_-]?key|secret(?:[_-]?key)?|access[_-]?key|private[_-]?key|passw(?:or)?d|passphrase|pwd|"
    r"credentials?|(?:access|auth|api|hf|hub|bearer|refresh|session|id)[_-]?token|authorization)"
)
# Secrets that are known by their form, whoever issued them.
_FORMS = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{12,}                                  # Hugging Face
      | sk-(?:[A-Za-z0-9_-]{20,}|(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{8,})  # OpenAI, Anthropic and many that follow them
      | (?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{16,}          # GitHub
      | glpat-[A-Za-z0-9_-]{16,}                             # GitLab
      | xox[abeprs]-[A-Za-z0-9-]{10,}                        # Slack
      | (?:AKIA|ASIA)[A-Z0-9]{16}                            # AWS
      | AIza[A-Za-z0-9_-]{30,}                               # Google
      | (?:gsk_|r8_|nvapi-|pplx-|xai-|tgp_v1_|fw_|pat_)[A-Za-z0-9_-]{16,}  # Groq, Replicate, NVIDIA and others
      | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*   # a JSON web token
    )
    """,
    re.VERBOSE,
)
_LOGIN = re.compile(r"(?<=://)[^/?#\s@]*(?::[^/?#\s]*)?@(?=[^@/?#\s])")
_QUERY = re.compile(r"(?<=[?&])((?:key|token|sig|signature|x-amz-[a-z-]+|" + _NAME + r")=)[^&#\s]+", re.IGNORECASE)
_PAIR = re.compile(
    r"(?<![\w.-])(['\"]?" + _NAME + r"['\"]?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;}\]'\"]+)", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_FLAG = re.compile(r"--?" + _NAME, re.IGNORECASE)
_WHOLE = re.compile(_NAME, re.IGNORECASE)


def without_secrets(text: str) -> str:
    """``text`` with what looks like a key, token, password or login of a URL replaced by ``***``.

    Args:
        text: a message or one argument of a command.
    """
    text = _LOGIN.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
    text = _PAIR.sub(rf"\g<1>{HIDDEN}", text)
    return _FORMS.sub(HIDDEN, text)


def command_without_secrets(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, secrets hidden; also a value that follows a flag such as ``--api-key``."""
    shown: list[str] = []
    follows = False
    for argument in arguments:
        shown.append(HIDDEN if follows else _argument(argument))
        follows = not follows and bool(_FLAG.fullmatch(argument))
    return shown


def _argument(argument: str) -> str:
    # One argument may hold spaces that the shell kept together: all behind the sign is the value.
    name, equals, _ = argument.partition("=")
    if equals and _WHOLE.fullmatch(name.lstrip("-")):
        return f"{name}={HIDDEN}"
    return without_secrets(argument)


def values_without_secrets(value: Any) -> Any:
    """A JSON value, secrets in its strings and under telling names hidden: a key does not determine a number.

    A string that holds a secret keeps four hexadecimal digits of its digest, so that two different ones (names of
    folders that look like keys, say) stay different settings.
    """
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(inner, str) and inner and _WHOLE.fullmatch(str(name))
            else values_without_secrets(inner)
            for name, inner in value.items()
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [values_without_secrets(inner) for inner in value]
    if not isinstance(value, str) or (hidden := without_secrets(value)) == value:
        return value
    digest = hashlib.sha256(value.encode(errors="backslashreplace")).hexdigest()
    return f"{hidden} (sha256 {digest[:4]}…)"
