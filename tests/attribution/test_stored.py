"""Stored sums come back as they were, and only for what they were made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aftertune.attribution import GradientSums, read_sums, write_sums
from aftertune.errors import DataError, OutputError

ABOUT = {"subject": "a" * 64, "data": ["set", "b" * 64]}


def sums() -> GradientSums:
    generator = torch.Generator().manual_seed(0)
    return GradientSums(
        {"layers.0.w": torch.randn(3, 4, generator=generator), "layers.1.w": torch.randn(2, 2, generator=generator).T},
        {"layers.0.w": torch.rand(3, 4, generator=generator)},
        [1.5, 2.25],
    )


def test_sums_come_back_bit_for_bit(tmp_path: Path) -> None:
    write_sums(tmp_path / "harm.safetensors", sums(), ABOUT)
    back = read_sums(tmp_path / "harm.safetensors", ABOUT)
    assert back.losses == sums().losses
    for kind in ("signed", "absolute"):
        kept, found = getattr(sums(), kind), getattr(back, kind)
        assert kept.keys() == found.keys()
        assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert [p.name for p in tmp_path.iterdir()] == ["harm.safetensors"]


def test_those_of_other_data_or_damaged_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "harm.safetensors"
    write_sums(path, sums(), ABOUT)
    with pytest.raises(DataError, match="another subject or other data"):
        read_sums(path, {**ABOUT, "subject": "c"})
    whole = path.read_bytes()
    for damaged in (whole[:-5], b"", b"\x00" * 40):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_sums(path)
    with pytest.raises(DataError, match=r"cannot be read|damaged"):
        read_sums(tmp_path / "absent.safetensors")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_sums(tmp_path / "absent" / "harm.safetensors", sums(), ABOUT)
