"""The command line: one file a verb; parse, call the API, print."""

from aftertune.cli._main import main

__all__ = ["main"]
