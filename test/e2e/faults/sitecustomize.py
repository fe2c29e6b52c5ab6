"""Reads that fail or take long, in a server under test that has this folder on its PYTHONPATH.

The system call is wrapped, so that everything above it is the product's. Python imports this module
at start-up, in every process of the server. FAULTS_FILE names a JSON file that the test rewrites as
it goes; each read looks at it:

    {"below": "tp1-pp0/log", "kind": "fail" | "slow"}       or empty for no fault
"""

import errno
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

SLOW_READ_S = 0.3

_preadv = os.preadv


def _faulty(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
    text = Path(os.environ["FAULTS_FILE"]).read_text(encoding="utf-8")
    fault = json.loads(text) if text else None
    if fault and fault["below"] in str(Path(f"/proc/self/fd/{fd}").readlink()):
        if fault["kind"] == "fail":
            raise OSError(errno.EIO, "injected")
        time.sleep(SLOW_READ_S)
    return _preadv(fd, buffers, offset, flags)


if "FAULTS_FILE" in os.environ:
    os.preadv = _faulty
