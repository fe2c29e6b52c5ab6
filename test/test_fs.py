"""The real file system, in a directory of its own; and the fake one, held to the same contract."""

import contextlib
import errno
import mmap
import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import ConfigError, StoreError, UnavailableError
from sglang_lsm.fs import (
    IOV_MAX,
    LocalFileSystem,
    available_memory_bytes,
    left_over_cpu_s,
    resident_bytes,
)
from support.fake_fs import Crash, FakeDisk

BLOCK = 4096


@pytest.fixture(params=["local", "fake"])
def fs(request, tmp_path):
    if request.param == "local":
        return LocalFileSystem()
    disk = FakeDisk()
    disk.make_dir(tmp_path)
    return disk


def run_child(code: str, *arguments: object) -> str:
    """Run `code` in a process of its own and return what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@given(
    st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.lists(st.binary(max_size=BLOCK), max_size=4))),
    st.integers(0, 5 * BLOCK),
    st.integers(0, 5 * BLOCK),
)
def test_a_file_is_an_array_of_bytes(fs, tmp_path, writes, offset, num_bytes):
    path, content = tmp_path / "array", bytearray()
    fs.unlink(path)
    file = fs.open(path, create=True)
    for at, pieces in writes:
        file.pwritev(pieces, at)
        joined = b"".join(pieces)
        if joined:
            content.extend(bytes(max(0, at + len(joined) - len(content))))
            content[at : at + len(joined)] = joined
    assert file.size_bytes() == len(content)
    memory = bytearray(num_bytes)
    views = [memoryview(memory)[: num_bytes // 3], memoryview(memory)[num_bytes // 3 :]]
    num_read = file.preadv(views, offset)
    assert memory[:num_read] == content[offset : offset + num_bytes]
    assert num_read == len(content[offset : offset + num_bytes])
    file.close()


def test_more_pieces_than_one_system_call_takes(fs, tmp_path):
    file = fs.open(tmp_path / "file", create=True)
    pieces = [i.to_bytes(4, "big") for i in range(2 * IOV_MAX + 5)]
    file.pwritev(pieces, 8)
    out = [memoryview(bytearray(4)) for _ in pieces]
    assert file.preadv(out, 8) == 4 * len(pieces)
    assert [bytes(view) for view in out] == pieces
    file.close()


def test_allocate_reserves_and_keeps_the_content(fs, tmp_path):
    file = fs.open(tmp_path / "file", create=True)
    file.pwritev([b"content"], 0)
    file.allocate(0, 16 * BLOCK)
    assert file.size_bytes() == 16 * BLOCK
    assert file.allocated_bytes() >= 16 * BLOCK
    out = memoryview(bytearray(9))
    file.preadv([out], 0)
    assert bytes(out) == b"content\0\0"
    file.close()


def test_punch_gives_blocks_back_and_leaves_the_neighbours(fs, tmp_path):
    file = fs.open(tmp_path / "file", create=True)
    file.pwritev([b"x" * (8 * BLOCK)], 0)
    file.sync()
    before = file.allocated_bytes()
    if not file.punch(2 * BLOCK, 3 * BLOCK):
        pytest.skip("this file system cannot punch holes")
    file.sync()
    assert before - file.allocated_bytes() == 3 * BLOCK
    assert file.size_bytes() == 8 * BLOCK
    out = memoryview(bytearray(8 * BLOCK))
    assert file.preadv([out], 0) == 8 * BLOCK
    assert bytes(out) == b"x" * (2 * BLOCK) + bytes(3 * BLOCK) + b"x" * (3 * BLOCK)
    file.close()


def test_truncate_cuts_and_gives_back(fs, tmp_path):
    file = fs.open(tmp_path / "file", create=True)
    file.allocate(0, 16 * BLOCK)
    file.truncate(BLOCK)
    assert (file.size_bytes(), file.allocated_bytes()) == (BLOCK, BLOCK)
    file.drop_cache()
    file.close()


def test_create_refuses_a_file_that_exists(fs, tmp_path):
    fs.open(tmp_path / "file", create=True).close()
    with pytest.raises(UnavailableError) as caught:
        fs.open(tmp_path / "file", create=True)
    assert caught.value.errno == errno.EEXIST


def test_open_refuses_a_file_that_does_not_exist(fs, tmp_path):
    with pytest.raises(UnavailableError) as caught:
        fs.open(tmp_path / "file")
    assert caught.value.errno == errno.ENOENT


def test_names(fs, tmp_path):
    fs.make_dir(tmp_path / "a" / "b")
    fs.make_dir(tmp_path / "a" / "b")
    fs.open(tmp_path / "a" / "z", create=True).close()
    assert fs.list_dir(tmp_path / "a") == ["b", "z"]
    fs.sync_dir(tmp_path / "a")
    fs.unlink(tmp_path / "a" / "z")
    fs.unlink(tmp_path / "a" / "z")
    assert fs.list_dir(tmp_path / "a") == ["b"]
    fs.remove_tree(tmp_path / "a")
    fs.remove_tree(tmp_path / "a")
    assert fs.list_dir(tmp_path) == []


def test_replace_writes_a_small_file(fs, tmp_path):
    assert fs.read(tmp_path / "facts") is None
    fs.replace(tmp_path / "facts", b"old and long")
    fs.replace(tmp_path / "facts", b"new")
    assert fs.read(tmp_path / "facts") == b"new"
    assert fs.list_dir(tmp_path) == ["facts"]


def test_free_bytes_is_a_part_of_the_file_system(tmp_path):
    facts = os.statvfs(tmp_path)
    assert 0 < LocalFileSystem().free_bytes(tmp_path) < facts.f_blocks * facts.f_frsize


def test_a_full_fake_disk_refuses_what_does_not_fit():
    disk = FakeDisk(capacity_bytes=10 * BLOCK)
    file = disk.open(Path("/file"), create=True)
    file.allocate(0, 8 * BLOCK)
    assert disk.free_bytes(Path("/")) == 2 * BLOCK
    file.pwritev([bytes(8 * BLOCK)], 0)
    with pytest.raises(UnavailableError) as caught:
        file.pwritev([bytes(3 * BLOCK)], 8 * BLOCK)
    assert caught.value.errno == errno.ENOSPC
    file.punch(0, 4 * BLOCK)
    file.pwritev([bytes(3 * BLOCK)], 8 * BLOCK)


@given(st.integers(0, 1 << 32), st.integers(0, 3))
def test_a_fake_disk_keeps_what_was_synced_and_no_more_than_was_written(seed, num_synced):
    """The model tests stand on this: of the unsynced, any part may be lost; of the synced, none."""
    disk, contents = FakeDisk(), [bytes([i + 1]) * 2 * BLOCK for i in range(4)]
    file = disk.open(Path("/file"), create=True)
    for i, content in enumerate(contents):
        file.pwritev([content], i * 2 * BLOCK)
        if i == num_synced:
            file.sync()
            disk.sync_dir(Path("/"))
    disk.lose_power(seed)
    data = disk.read(Path("/file"))
    for i, content in enumerate(contents):
        found = data[i * 2 * BLOCK : (i + 1) * 2 * BLOCK]
        if i <= num_synced:
            assert found == content
        else:
            assert set(found) <= {0, content[0]}


def test_a_lock_is_held_once(fs, tmp_path):
    lock = fs.lock(tmp_path / "LOCK")
    with pytest.raises(ConfigError, match="in use"):
        fs.lock(tmp_path / "LOCK")
    lock.release()
    fs.lock(tmp_path / "LOCK").release()


def test_a_lock_of_another_process_is_respected_until_it_dies(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from sglang_lsm.fs import LocalFileSystem
        lock = LocalFileSystem().lock(Path(sys.argv[1]))
        print("held", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "LOCK")]
    fs = LocalFileSystem()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="in use by another process"):
            fs.lock(tmp_path / "LOCK")
        child.kill()
        child.wait()
        fs.lock(tmp_path / "LOCK").release()


def test_a_write_cut_short_by_a_limit_is_an_error(tmp_path):
    """The system writes as much as the limit allows and says so; the rest must not be forgotten."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from sglang_lsm.errors import UnavailableError
        from sglang_lsm.fs import LocalFileSystem
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        file = LocalFileSystem().open(Path(sys.argv[1]), create=True)
        try:
            file.pwritev([b"x" * 4096, b"y" * 4096], 0)
        except UnavailableError as error:
            print(error.errno, file.size_bytes())
    """
    assert run_child(code, tmp_path / "file") == f"{errno.EFBIG} 6000"


def test_a_write_cut_short_is_finished(tmp_path, monkeypatch):
    """A short write without an error is continued where it stopped."""
    file = LocalFileSystem().open(tmp_path / "file", create=True)
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: real(fd, [parts[0][:3]], at))
    file.pwritev([b"abcdef", memoryview(b"ghi")], 2)
    monkeypatch.undo()
    out = memoryview(bytearray(9))
    file.preadv([out], 2)
    assert bytes(out) == b"abcdefghi"
    file.close()


def test_a_read_cut_short_is_finished(tmp_path, monkeypatch):
    file = LocalFileSystem().open(tmp_path / "file", create=True)
    file.pwritev([b"abcdefghi"], 0)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: real(fd, [parts[0][:2]], at))
    out = [memoryview(bytearray(5)), memoryview(bytearray(10))]
    assert file.preadv(out, 0) == 9
    assert b"".join(out) == b"abcdefghi" + bytes(6)
    file.close()


def test_direct_io_moves_aligned_memory(tmp_path):
    fs = LocalFileSystem()
    fs.open(tmp_path / "file", create=True).close()
    try:
        file = fs.open(tmp_path / "file", direct=True)
    except UnavailableError:
        pytest.skip("this file system has no O_DIRECT")
    memory = memoryview(mmap.mmap(-1, 4 * BLOCK))
    memory[:] = os.urandom(4 * BLOCK)
    file.pwritev([memory[:BLOCK], memory[BLOCK:]], BLOCK)
    out = memoryview(mmap.mmap(-1, 4 * BLOCK))
    assert file.preadv([out[: 3 * BLOCK], out[3 * BLOCK :]], BLOCK) == 4 * BLOCK
    assert out == memory
    with pytest.raises(UnavailableError) as caught:
        file.pwritev([bytes(BLOCK + 1)], 0)
    assert caught.value.errno == errno.EINVAL
    file.close()


def test_a_file_opened_read_only_takes_no_write(tmp_path):
    fs = LocalFileSystem()
    fs.open(tmp_path / "file", create=True).close()
    file = fs.open(tmp_path / "file", read_only=True)
    with pytest.raises(UnavailableError):
        file.pwritev([b"x"], 0)
    file.close()


def test_every_failure_of_the_system_is_unavailable_and_names_the_path(tmp_path):
    fs, path = LocalFileSystem(), tmp_path / "absent" / "file"
    (tmp_path / "plain").write_bytes(b"")
    calls = [
        lambda: fs.list_dir(path),
        lambda: fs.open(path, create=True),
        lambda: fs.replace(path, b""),
        lambda: fs.sync_dir(path),
        lambda: fs.free_bytes(path),
        lambda: fs.lock(path),
        lambda: fs.make_dir(tmp_path / "plain" / "below"),
        lambda: fs.unlink(tmp_path / "plain" / "below"),
        lambda: fs.read(tmp_path),
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        assert isinstance(caught.value, UnavailableError)
        assert caught.value.errno
        assert str(tmp_path) in str(caught.value)


def test_closing_leaves_no_descriptor_behind(tmp_path):
    fs = LocalFileSystem()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the names, and no entry held open
    file = fs.open(tmp_path / "file", create=True)
    lock = fs.lock(tmp_path / "LOCK")
    fs.replace(tmp_path / "facts", b"x")
    fs.sync_dir(tmp_path)
    lock.release()
    file.close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_available_memory_is_less_than_what_is_there():
    total = resource.getpagesize() * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory_bytes() < total


def test_replace_survives_a_crash_at_every_step():
    """The old content or the new one, whichever step the process or the power ends at."""
    directory = Path("/facts")
    for lose_power in (False, True):
        for num_changes in range(5):
            disk = FakeDisk()
            disk.make_dir(directory)
            disk.replace(directory / "facts", b"old")
            disk.crash_after = num_changes
            with contextlib.suppress(Crash):
                disk.replace(directory / "facts", b"new")
            disk.lose_power(num_changes) if lose_power else disk.kill()
            assert disk.read(directory / "facts") in (b"old", b"new")


def test_tells_what_is_in_the_page_cache(tmp_path):
    file = LocalFileSystem().open(tmp_path / "file", create=True)
    file.pwritev([bytes(1 << 20)], 0)
    file.sync()
    if file.cached_bytes(0, 1 << 20) is None:
        pytest.skip("a kernel before Linux 6.5 cannot tell")
    assert file.cached_bytes(0, 1 << 20) == 1 << 20
    assert file.cached_bytes(4096, 8192) == 8192
    assert file.cached_bytes(1 << 20, 4096) == 0
    file.drop_cache()
    assert file.cached_bytes(0, 1 << 20) == 0
    # To ask must not read: it would bring in what is about to be read around the page cache.
    assert file.cached_bytes(0, 1 << 20) == 0
    file.close()


def test_a_deleted_file_can_be_opened_again(tmp_path):
    file = LocalFileSystem().open(tmp_path / "file", create=True)
    file.pwritev([b"content"], 0)
    (tmp_path / "file").unlink()
    again, out = file.again(), memoryview(bytearray(7))
    file.close()
    assert again.preadv([out], 0) == 7
    assert bytes(out) == b"content"
    with pytest.raises(UnavailableError):
        again.pwritev([b"other"], 0)
    again.close()


def test_resident_memory_grows_with_what_is_held():
    before = resident_bytes()
    # A mapping of its own: memory that an earlier test has freed may be resident still.
    with mmap.mmap(-1, 64 << 20) as held:
        held.write(bytes(len(held)))
        assert resident_bytes() > before + len(held) // 2


def test_cpu_that_is_left_over_grows_no_faster_than_there_are_processors():
    started_s, before = time.monotonic(), left_over_cpu_s()
    while time.monotonic() - started_s < 0.1:
        pass
    after = left_over_cpu_s()
    seconds = time.monotonic() - started_s
    assert before and len(before) == len(after)
    num_cpus = len(os.sched_getaffinity(0))
    # The kernel counts in ticks of 10 ms, each processor's its own.
    assert -0.01 * num_cpus <= after[0] - before[0] <= num_cpus * (seconds + 0.02)
