"""The templates, and what they may call."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aftertune.report._manifest import plain
from aftertune.report._page import Example
from aftertune.report._text import about, clean, decision_word, number, signed, unit, with_interval, worsening
from aftertune.stats import describe_worst


def fill(template: str, **variables: Any) -> str:
    """A template with its variables put in; all text is cleaned and escaped."""
    return _environment().get_template(template).render(**variables)


@dataclass(frozen=True)
class Script:
    """A script within the page.

    Attributes:
        text: what stands in the element, to the letter.
        digest: its SHA-256 in base64, by which the page's policy lets it run and no other.
    """

    text: Markup
    digest: str


@functools.cache
def inline_script(name: str) -> Script:
    """One of our scripts; nothing of a report is ever put into it."""
    text = resources.files("aftertune.report").joinpath("templates", name).read_text("utf-8")
    return Script(Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("aftertune.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        about=about, unit=unit, decision_word=decision_word, worsening=worsening, describe_worst=describe_worst
    )
    environment.filters.update(number=number, signed=signed, moved=_moved, value=plain, with_interval=with_interval)
    return environment


def _finalize(value: Any) -> Any:
    """Everything a template prints passes here, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return clean(value) if isinstance(value, str) else value


def _moved(example: Example) -> str:
    return f"{number(example.base)} → {number(example.tuned)} {unit(example.metric)}".rstrip()
