"""kill -9 of a process that writes, at moments drawn from a seed; real files, real RocksDB."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sglang_lsm.store import Store
from support.page_maker import (
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

NUM_PAGES, PIECES = 3, (9000, 9000)
WRITER = Path(__file__).with_name("writer.py")
TEST_ROOT = str(WRITER.parents[1])


def write_until_killed(directory, first, *, num_acknowledged, extra_bytes):
    """Run a writer, kill it, and return the numbers of the paths it acknowledged.

    It dies once it has acknowledged some paths and its pipe holds some bytes more: at that moment
    it is in the middle of a put.
    """
    command = [sys.executable, str(WRITER), str(directory), str(first)]
    environment = os.environ | {"PYTHONPATH": TEST_ROOT}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        acknowledged = [int(writer.stdout.readline()) for _ in range(num_acknowledged)]
        os.read(writer.stdout.fileno(), extra_bytes)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    return acknowledged


@pytest.mark.parametrize("index_lost", [False, True])
def test_what_was_acknowledged_is_read_back_after_kill(tmp_path, index_lost):
    seed = int.from_bytes(os.urandom(4), "big")
    rng = random.Random(seed)
    acknowledged, directory = [], tmp_path / "store"
    for cycle in range(4):
        first = acknowledged[-1] + 1000 if acknowledged else 0
        acknowledged += write_until_killed(
            directory, first, num_acknowledged=rng.randint(1, 150), extra_bytes=rng.randint(1, 3)
        )
        if index_lost:
            for file in (directory / "index").iterdir():
                file.unlink()
        store = Store.open(directory, small_config(64))
        namespace = store.register(fingerprint())
        for number in acknowledged:
            path = path_of(namespace, [number] * NUM_PAGES)
            assert store.probe(path) == NUM_PAGES, f"lost. seed={seed} cycle={cycle} {number=}"
            out = empty_pages(NUM_PAGES, PIECES)
            assert store.get_batch(path, out) == NUM_PAGES, f"seed={seed} cycle={cycle} {number=}"
            expected = [joined(page) for page in pages_of(path, PIECES)]
            assert [joined(page) for page in out] == expected, f"wrong. seed={seed} {number=}"
        assert store.stats().pages_damaged == 0
        store.close()
