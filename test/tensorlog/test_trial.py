from pathlib import Path

import pytest
from sglang_lsm.tensorlog.trial import try_file_system
from support.fake_fs import FakeDisk

LOG = Path("/log")


@pytest.mark.parametrize("can_punch", [True, False])
def test_a_file_system_is_tried_and_nothing_is_left(can_punch):
    disk = FakeDisk(can_punch=can_punch)
    disk.make_dir(LOG)
    assert try_file_system(disk, LOG) == (can_punch, True)
    assert disk.list_dir(LOG) == []


def test_a_full_disk_tells_nothing():
    disk = FakeDisk(capacity_bytes=0)
    disk.make_dir(LOG)
    assert try_file_system(disk, LOG) == (True, True)


def test_a_file_that_cannot_be_made_tells_nothing():
    disk = FakeDisk()
    disk.make_dir(LOG)
    disk.failing = {"open"}
    assert try_file_system(disk, LOG) == (True, True)
