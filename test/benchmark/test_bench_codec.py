import json
import os

import numpy as np
import pytest
from sglang_lsm import codec

from benchmark import bench_codec, real_kv
from benchmark.bench_codec import measure_codec, measure_room

PAGE_BYTES, ENCODED_BLOCKS = 65_536, 11


def bfloat16(num_pages):
    """Pages of what KV looks like to a codec, in place of a model's."""
    normal = np.random.default_rng(0).standard_normal((num_pages, PAGE_BYTES // 2), np.float32)
    return (normal.view(np.uint32) >> 16).astype("<u2").view(np.uint8)


def test_room_is_that_of_the_stores_codec():
    pages = bfloat16(4)
    plain, encoded = measure_room(pages, "bfloat16")
    assert plain == 16
    blocks = [-(-len(codec.encode(memoryview(page), 2)) // 4096) for page in pages]
    assert min(blocks) <= encoded <= max(blocks) < plain
    noise = np.frombuffer(np.random.default_rng(1).bytes(PAGE_BYTES), np.uint8)[None]
    assert measure_room(noise, "bfloat16") == (16, 16)


def test_the_codec_is_timed_on_what_it_takes():
    row = measure_codec("bfloat16", bfloat16(8), 0)
    assert row.room == pytest.approx(ENCODED_BLOCKS / 16)
    assert row.encode_gbs > 0 and row.decode_gbs > 0


def test_runs_and_writes_its_figures(tmp_path, monkeypatch, capsys):
    kv = {"bfloat16": bfloat16(16), "float8_e4m3fn": bfloat16(16)}
    monkeypatch.setattr(real_kv, "pages", lambda num_pages: kv)
    output = tmp_path / "figures.json"
    arguments = ["--quick", "--dir", os.fspath(tmp_path), "--json", os.fspath(output)]
    assert bench_codec.main(arguments) == 0
    report = json.loads(output.read_text())
    assert [row["kv_dtype"] for row in report["codec"]] == ["bfloat16", "float8_e4m3fn"]
    found = {(row["form"], row["cache"]): row for row in report["gets"]}
    assert {form for form, _ in found} == {"plain", "encoded"}
    assert found["plain", "cold"]["disk_bytes"] == 16 * PAGE_BYTES
    assert found["encoded", "cold"]["disk_bytes"] == 16 * ENCODED_BLOCKS * 4096
    assert "encode GB/s" in capsys.readouterr().out
