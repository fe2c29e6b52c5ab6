"""The command's exit codes and output: 0 fine, 1 found a problem, 2 misuse."""

import json
from pathlib import Path

import pytest
from sglang_lsm.cli.main import main
from sglang_lsm.controller.decision_log import DecisionLog
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.store import Store
from support.page_maker import fingerprint, pages_of, path_of, small_config


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    store = Store.open(tmp_path / "tp0-pp0", small_config())
    path = path_of(store.register(fingerprint("some-model")), range(5))
    store.put_batch(path, pages_of(path, (5000,)))
    store.close()
    return tmp_path


def test_stats_names_the_model_and_counts_its_pages(directory: Path, capsys):
    assert main(["stats", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "model=some-model" in out and "5 pages, 25.0 kB, 1 beginnings" in out


def test_stats_as_json(directory: Path, capsys):
    assert main(["stats", str(directory), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    (namespace,) = found["namespaces"].values()
    assert (namespace["num_pages"], namespace["num_bytes"]) == (5, 25000)


def test_verify_exits_1_when_a_page_is_damaged(directory: Path, capsys):
    assert main(["verify", str(directory)]) == 0
    assert "0 damaged" in capsys.readouterr().out
    segment = next((directory / "tp0-pp0" / "log").glob("*.seg"))
    content = bytearray(segment.read_bytes())
    content[-1000] ^= 0xFF
    content[-5000] ^= 0xFF
    segment.write_bytes(content)
    assert main(["verify", str(directory)]) == 1
    assert "damaged: page does not match" in capsys.readouterr().out


def test_a_directory_without_a_store_is_misuse(tmp_path: Path, capsys):
    assert main(["stats", str(tmp_path)]) == 2
    assert "no store" in capsys.readouterr().err


def test_a_lost_index_is_a_problem_found_not_a_crash(directory: Path, capsys):
    (directory / "tp0-pp0" / "index" / "CURRENT").unlink()
    assert main(["stats", str(directory)]) == 1
    assert "sglang-lsm: the index failed" in capsys.readouterr().err


def test_holds_are_listed(directory: Path, capsys):
    store = Store.open(directory / "tp0-pp0", small_config())
    path = path_of(fingerprint("some-model").namespace, range(5))
    store.hold(path, pinned=True, priority=2, ttl_s=3600)
    store.close()
    assert main(["holds", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "1 held" in out
    assert f"5 pages to {path.hashes[-1][:8].hex()}: pinned, priority 2, until 2" in out
    assert main(["holds", str(directory), "--json"]) == 0
    (held,) = json.loads(capsys.readouterr().out)["holds"]
    assert (held["pinned"], held["priority"]) == (True, 2)


def test_decisions_are_lines_for_a_person(directory: Path, capsys):
    store = directory / "tp0-pp0"
    change = {"setting": "log.io_mode", "old": "auto", "new": "direct", "measured_wait_s": 0.5}
    DecisionLog(LocalFileSystem(), store).append({"event": "rolled back", **change})
    assert main(["decisions", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "1 decisions" in out and "rolled back  log.io_mode auto -> direct" in out
    assert main(["decisions", str(directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[str(store)][0]["new"] == "direct"
