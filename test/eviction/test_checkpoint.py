import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import CorruptionError, FormatVersionError
from sglang_lsm.eviction import checkpoint
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.page_table import PageTable
from trees import NAMESPACES, PATHS, row_of, store, table_of

COLUMNS = ("place", "last", "traits")


def facts(table):
    rows = table.live_rows()
    columns = [getattr(table, name)[rows].tolist() for name in COLUMNS]
    children = table.num_children(rows).tolist()
    return dict(zip(index_keys(table, rows), zip(*columns, children, strict=True), strict=True))


@given(PATHS, st.integers(0, 2**32 - 1), st.data())
def test_round_trip(paths, now, data):
    table = table_of(paths)
    leaves = table.view().leaves().astype(np.int32)
    if leaves.size:
        # Leaves gaps between the rows.
        table.remove(leaves[: data.draw(st.integers(0, len(leaves)))])
    table.traits[:] = np.arange(len(table.traits))
    restored, its_now = checkpoint.from_bytes(checkpoint.to_bytes(table, now), capacity=1)
    assert its_now == now
    assert restored.namespaces == table.namespaces
    assert facts(restored) == facts(table)


def sample():
    table = PageTable(1)
    store(table, NAMESPACES[0], "ab", now=5)
    return checkpoint.to_bytes(table, 9)


def test_golden_bytes():
    assert sample().hex() == (
        "534c534d5054414201000000010000000200000000000000"
        "0900000000000000"
        "4e4270cf84029850"
        "ca7099486b6d93e1"
        "6d6f64656c2d3031"
        "fb8d36a677e5f8a7"
        "1c07b53b185b20f5"
        "feffffff00000000"
        "0100000010000000"
        "0100000010000000"
        "0500000005000000"
        "00000000"
    )


def test_every_flipped_byte_is_noticed():
    good = sample()
    for i in range(len(good)):
        bad = bytearray(good)
        bad[i] ^= 0x10
        with pytest.raises(CorruptionError):
            checkpoint.from_bytes(bytes(bad), capacity=1)


def test_every_cut_is_noticed():
    good = sample()
    for length in range(len(good)):
        with pytest.raises(CorruptionError):
            checkpoint.from_bytes(good[:length], capacity=1)


def test_a_newer_version_is_told_from_damage(monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    newer = sample()
    monkeypatch.undo()
    with pytest.raises(FormatVersionError):
        checkpoint.from_bytes(newer, capacity=1)


def test_a_restored_table_goes_on():
    table, _ = checkpoint.from_bytes(sample(), capacity=0)
    store(table, NAMESPACES[0], "abba")
    assert row_of(table, NAMESPACES[0], "abba") is not None
    assert len(table) == 4
