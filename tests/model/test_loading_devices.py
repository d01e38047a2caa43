"""Devices that cannot hold a model are one line."""

from __future__ import annotations

import pytest

from aftertune.errors import UsageError
from aftertune.model import resolve_device


@pytest.mark.parametrize("device", ["meta", "meta:0", "cuda:99", "cpu:x", "", " ", "zork", "x" * 5000, "cpu\0", "-1"])
def test_what_holds_no_model_is_no_device(device: str) -> None:
    with pytest.raises(UsageError, match="cannot be used here") as caught:
        resolve_device(device)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_one() -> None:
    assert resolve_device("cpu") == "cpu"
