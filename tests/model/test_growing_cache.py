"""The growing cache against transformers' own, through columns added and rows that leave, double and change places."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from aftertune.model._growing_cache import GrowingLayer, let_grow


def caches(rows: int, tokens: int) -> tuple[DynamicCache, DynamicCache]:
    theirs, ours = DynamicCache(), DynamicCache()
    for layer in range(2):
        keys, values = torch.randn(2, rows, 3, tokens, 4)
        for cache in (theirs, ours):
            cache.update(keys, values, layer)
    let_grow(ours)
    assert all(type(layer) is GrowingLayer for layer in ours.layers)
    return theirs, ours


def assert_same(theirs: DynamicCache, ours: DynamicCache) -> None:
    assert ours.get_seq_length() == theirs.get_seq_length()
    for a, b in zip(theirs.layers, ours.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)


def test_it_holds_what_the_plain_cache_holds() -> None:
    torch.manual_seed(0)
    theirs, ours = caches(rows=4, tokens=5)
    moves = [None, [0, 0, 1, 2, 3, 3], None, None, [5, 1], None, *[None] * 70, [0], None]
    for move in moves:
        rows = theirs.layers[0].keys.shape[0]
        if move is not None:
            for cache in (theirs, ours):
                cache.reorder_cache(torch.tensor(move))
        else:
            for layer in range(2):
                keys, values = torch.randn(2, rows, 3, 2, 4)
                seen, wanted = ours.update(keys, values, layer), theirs.update(keys, values, layer)
                assert all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))
        assert_same(theirs, ours)


def test_a_step_copies_nothing_while_there_is_room() -> None:
    _, ours = caches(rows=2, tokens=5)
    column = torch.zeros(2, 3, 1, 4)
    ours.update(column, column, 0)
    place = ours.layers[0].keys.data_ptr()
    for _ in range(20):
        ours.update(column, column, 0)
    assert ours.layers[0].keys.data_ptr() == place


def test_an_empty_cache_and_one_of_another_kind_are_left_alone() -> None:
    empty = DynamicCache()
    let_grow(empty)
    let_grow(None)
    let_grow((torch.zeros(1), torch.zeros(1)))
    assert empty.layers == []
