"""Defences, one file each; a file here that exports ``DEFENCE`` is one that ``tune --defence`` knows."""
