from dataclasses import replace

import pytest
from sglang_lsm.controller import profiler
from sglang_lsm.controller.profile import KINDS
from sglang_lsm.controller.profiler import (
    PROFILE_NAME,
    ProfilerConfig,
    keep_profile,
    load_profile,
    measure_profile,
)
from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import LocalFile, LocalFileSystem
from support.devices import device

SMALL = ProfilerConfig(
    scratch_bytes=1 << 20, seconds_a_point=0.002, sizes=(16384, 65536), depths=(1, 2)
)


def test_a_device_is_measured_and_nothing_is_left_behind(tmp_path):
    profile = measure_profile(LocalFileSystem(), tmp_path, SMALL)
    assert {point.kind for point in profile.points} == set(KINDS)
    assert all(point.bytes_per_s > 0 for point in profile.points)
    assert not list(tmp_path.iterdir())


def test_writes_are_measured_on_space_never_written_and_reads_on_data(tmp_path, monkeypatch):
    """Writing over what is there was twice as fast as what the log does; so was the model."""
    seen = []
    real = LocalFile.punch

    def punch(self, offset, num_bytes):
        seen.append("punch")
        return real(self, offset, num_bytes)

    monkeypatch.setattr(LocalFile, "punch", punch)
    for name in ("preadv", "pwritev"):
        call = getattr(LocalFile, name)

        def spy(self, pages, offset, name=name, call=call):
            if seen[-1:] != [name]:
                seen.append(name)
            return call(self, pages, offset)

        monkeypatch.setattr(LocalFile, name, spy)
    measure_profile(LocalFileSystem(), tmp_path, SMALL)
    num_points = len(SMALL.sizes) * len(SMALL.depths)
    writes, rest = seen[: 2 * num_points], seen[2 * num_points :]
    assert writes == ["punch", "pwritev"] * num_points
    assert "punch" not in rest


def test_cold_reads_are_measured_as_the_log_reads_what_is_not_in_the_page_cache(
    tmp_path, monkeypatch
):
    """In one call each they took up to twice as long, and the model wished to go around it."""
    seen = []
    real = profiler.read_filling
    monkeypatch.setattr(profiler, "read_filling", lambda *call: seen.append(call[2]) or real(*call))
    profile = measure_profile(LocalFileSystem(), tmp_path, SMALL)
    assert len(seen) >= 2 * len([p for p in profile.points if p.kind == "read_cold"])


def test_of_two_halves_the_faster_counts(tmp_path, monkeypatch):
    real = profiler._Bench._move
    calls = []

    def move(self, *arguments):
        point = real(self, *arguments)
        calls.append(replace(point, bytes_per_s=float(len(calls))))
        return calls[-1]

    monkeypatch.setattr(profiler._Bench, "_move", move)
    profile = measure_profile(LocalFileSystem(), tmp_path, SMALL)
    slower = calls[0]
    assert slower not in profile.points
    assert calls[1] in profile.points


def test_it_stops_when_told_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnavailableError, match="told to stop"):
        measure_profile(LocalFileSystem(), tmp_path, SMALL, should_stop=lambda: True)
    assert not list(tmp_path.iterdir())


def test_a_profile_is_kept_and_an_unreadable_one_is_measured_again(tmp_path):
    fs = LocalFileSystem()
    assert load_profile(fs, tmp_path) is None
    keep_profile(fs, tmp_path, device())
    assert load_profile(fs, tmp_path) == device()
    fs.replace(tmp_path / PROFILE_NAME, b'{"version": 1, "points": "many"}')
    assert load_profile(fs, tmp_path) is None


def test_a_scratch_file_of_a_process_that_died_is_no_obstacle(tmp_path):
    fs = LocalFileSystem()
    fs.replace(tmp_path / "profile-scratch", b"left over")
    measure_profile(fs, tmp_path, SMALL)
    assert not list(tmp_path.iterdir())
