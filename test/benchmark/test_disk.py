"""Files that a server evicts while they are counted are no failure of the benchmark."""

from benchmark.rivals import disk


def test_a_file_that_went_meanwhile_takes_no_room(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    kept.write_bytes(bytes(8192))
    monkeypatch.setattr(disk, "files_under", lambda _: iter([tmp_path / "gone", kept]))
    assert disk.allocated_bytes(tmp_path) >= 8192
    disk.drop_cached_pages(tmp_path)
