"""One line of results on stdout; names and texts in it cannot steer a terminal or a CI runner."""

from __future__ import annotations

import click

from aftertune.errors import printed_line


def say(text: str = "") -> None:
    """Print one line; whatever in it is no ordinary character is spelled out."""
    click.echo(printed_line(text))
