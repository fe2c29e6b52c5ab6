"""Torture finds nothing in a sound store, and does find what is wrong in one that is not."""

import random

import pytest
from sglang_lsm import format
from sglang_lsm.cli import torture as torture_module
from sglang_lsm.cli.main import main
from sglang_lsm.cli.torture import TortureReport, torture
from sglang_lsm.store import Store


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_many_threads_on_one_store_find_no_wrong_page(tmp_path, capsys, seconds):
    assert main(["torture", str(tmp_path / "store"), "--seconds", str(seconds)]) == 0, (
        capsys.readouterr().out
    )
    out = capsys.readouterr().out
    assert ", 0 wrong" in out
    assert "problem" not in out


def test_the_work_is_done(tmp_path):
    report = torture(tmp_path / "store", seconds=3, seed=random.SystemRandom().randrange(1 << 32))
    assert report.is_sound, report
    assert min(report.counts[name] for name in ("checked", "read", "write", "delete", "tend")) > 0
    assert report.store["pages_put"] > 0
    assert report.early_bytes > 0 and report.final_bytes > 0


def test_wrong_bytes_are_found(tmp_path, monkeypatch):
    """A store that hands out what it did not check, over pages that were damaged on their way."""
    monkeypatch.setattr(format, "page_checksum", lambda key, pieces: 0)
    put_batch = Store.put_batch

    def put_damaged(self, path, pages, **options):
        return put_batch(self, path, [[memoryview(bytes(len(p[0])))] for p in pages], **options)

    monkeypatch.setattr(Store, "put_batch", put_damaged)
    report = torture(tmp_path / "store", seconds=1, seed=1)
    assert report.counts["wrong"] > 0
    assert not report.is_sound


def test_a_thread_that_makes_no_progress_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(torture_module, "STALL_S", 5.0)
    held = torture_module.threading.Event()
    monkeypatch.setattr(Store, "delete_subtree", lambda self, path: held.wait())
    report = torture(tmp_path / "store", seconds=60, seed=1)
    held.set()
    # Not the only one, maybe: on a machine with other work a put may take as long.
    assert "delete" in {name.partition("-")[0] for name in report.stuck}
    assert not report.is_sound


def test_memory_that_grows_is_told():
    report = TortureReport(seed=0, early_bytes=100 << 20, final_bytes=200 << 20)
    assert report.is_growing
    assert not report.is_sound


def test_a_store_that_is_there_already_is_left_alone(tmp_path, capsys):
    assert main(["torture", str(tmp_path), "--seconds", "1"]) == 0
    assert main(["torture", str(tmp_path), "--seconds", "0.1"]) == 2
    assert main(["torture", str(tmp_path), "--kill", "1"]) == 2
    assert "without a store" in capsys.readouterr().err
