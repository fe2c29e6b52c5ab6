"""Sizes fit the disk the tier lies on, and stay put when the server restarts."""

import shutil
from collections import namedtuple

import pytest
from sglang_lsm.config import GIB, MIB, LogConfig
from sglang_lsm.errors import ConfigError

from sglang_lsm_patch import preflight
from sglang_lsm_patch.options import ModelSource, parse_options

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """A disk of 100 GiB with 40 GiB free."""
    disk = Disk(100 * GIB, 60 * GIB, 40 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    return disk


@pytest.fixture
def sized(tmp_path):
    """Settings of a launch, by the options that size it."""

    def size(size=None, config=None, num_ranks=1):
        options = parse_options("lsm", tmp_path / "tier", size, config)
        return preflight.settings(options, model=ModelSource(), num_ranks=num_ranks)

    return size


def test_by_default_half_of_the_free_disk_and_a_floor(disk, sized):
    settings = sized()
    assert settings.quota_bytes == 20 * GIB
    assert settings.min_free_bytes == 5 * GIB


def test_ranks_share_the_size(disk, sized):
    assert sized("8GiB", num_ranks=4).quota_bytes == 2 * GIB


def test_a_share_does_not_shrink_by_what_the_tier_holds(disk, sized, tmp_path):
    """Symptom: with 50 % of the free disk, each restart halved what was left for the tier."""
    (tmp_path / "tier" / "tp0-pp0").mkdir(parents=True)
    (tmp_path / "tier" / "tp0-pp0" / "segment").write_bytes(bytes(8 * MIB))
    allocated = (tmp_path / "tier" / "tp0-pp0" / "segment").stat().st_blocks * 512
    assert allocated >= 8 * MIB
    assert sized("50%").quota_bytes == (40 * GIB + allocated) // 2


def test_the_floor_is_a_size_or_a_share_of_the_disk(disk, sized):
    assert sized(config={"min_free": "20%"}).min_free_bytes == 20 * GIB
    assert sized(config={"min_free": "3GiB"}).min_free_bytes == 3 * GIB


@pytest.mark.parametrize("size_mib", [8, 64, 100, 1024, 4096])
def test_segments_shrink_with_a_small_quota(disk, sized, size_mib):
    settings = sized(f"{size_mib}MiB")
    num_segments = settings.quota_bytes // settings.log.segment_bytes
    assert num_segments >= preflight.MIN_SEGMENTS
    settings.store_config()


@pytest.mark.parametrize("size_tib", [1, 3, 12, 100])
def test_segments_grow_with_a_large_quota(monkeypatch, sized, size_tib):
    """Each holds a descriptor or two, and a process has 65,535 at most."""
    disk = Disk(size_tib << 41, 0, size_tib << 41)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    settings = sized(f"{size_tib}TiB")
    num_segments = settings.quota_bytes // settings.log.segment_bytes
    assert num_segments <= preflight.MAX_SEGMENTS
    if settings.log.segment_bytes > LogConfig().segment_bytes:
        assert num_segments > preflight.MAX_SEGMENTS * 0.9
    settings.store_config()


def test_a_chosen_segment_size_is_kept(disk, sized):
    settings = sized("64MiB", config={"log": {"segment_bytes": 16 * MIB}})
    assert settings.log.segment_bytes == 16 * MIB


@pytest.mark.parametrize(
    ("size", "message"),
    [("101GiB", "larger than the disk"), ("0", "larger than zero"), ("-1GB", "larger than zero")],
)
def test_a_size_that_cannot_be_is_refused(disk, sized, size, message):
    with pytest.raises(ConfigError, match=message):
        sized(size)


def test_more_than_is_free_now_is_no_error(disk, sized):
    """The tier fills what there is and stops at the floor; others may free the rest later."""
    assert sized("90GiB").quota_bytes == 90 * GIB


def test_a_path_that_cannot_be_written_is_refused(sized, tmp_path):
    (tmp_path / "tier").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write"):
        sized("64MiB")


def test_what_was_never_opened_needs_no_check(disk, sized):
    preflight.require_openable(sized("64MiB"))


def test_the_choice_of_victims_reaches_the_store(sized):
    assert sized().store_config().eviction == "reuse"
    assert sized(config={"eviction": "lru"}).store_config().eviction == "lru"
