"""``python -m aftertune``."""

from aftertune.cli import main

main()
