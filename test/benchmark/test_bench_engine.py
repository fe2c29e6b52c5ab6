"""The engine benchmark measures what it says, and says what it could not measure."""

import json
from pathlib import Path

import pytest

from benchmark.bench_engine import main
from benchmark.measure import Cell, WrongPagesError, measure
from benchmark.rivals import RIVALS, RivalSpec, RivalUnavailableError
from benchmark.rivals.raw_file import RawFile

TINY = Cell(page_bytes=8192, batch_pages=4, set_bytes=32 * 8192, phase_s=5.0)


def test_every_figure_of_a_cell_is_there(tmp_path: Path) -> None:
    figures = measure("raw_buffered", TINY, tmp_path / "run", seed=1)
    assert figures["num_put_calls"] == 8
    assert all(figures[name] > 0 for name in ("put", "put_durable", "hot_get", "cold_get"))
    assert figures["put"] >= figures["put_durable"]
    assert figures["disk"] == pytest.approx(1.0)
    assert 1.0 <= figures["written"] < 1.5
    assert not (tmp_path / "run").exists()


def test_a_rival_that_changes_a_page_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar(RawFile):
        def get(self, path, out):
            num_pages = super().get(path, out)
            out[-1][0][-1] ^= 1
            return num_pages

    spec = RivalSpec("liar", "flips a bit", lambda space: Liar(space, direct=False))
    monkeypatch.setitem(RIVALS, "liar", spec)
    with pytest.raises(WrongPagesError, match="changed"):
        measure("liar", TINY, tmp_path / "run", seed=1)


def test_a_rival_that_loses_pages_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(RawFile):
        def get(self, path, out):
            return super().get(path, out) - 1

    spec = RivalSpec("forgetful", "loses a page", lambda space: Forgetful(space, direct=False))
    monkeypatch.setitem(RIVALS, "forgetful", spec)
    with pytest.raises(WrongPagesError, match="missing"):
        measure("forgetful", TINY, tmp_path / "run", seed=1)


def test_a_rival_that_cannot_run_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LMCACHE_DIR", str(tmp_path / "nothing"))
    report = tmp_path / "report.json"
    plan = ["--quick", "--rounds", "1", "--minutes", "0.2", "--dir", str(tmp_path / "bench")]
    arguments = [*plan, "--json", str(report), "--rivals", "raw_buffered", "lmcache_direct"]
    assert main(arguments) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "lmcache_direct" in line]
    assert any(line.startswith("|") and "not unpacked" in line for line in rows)
    content = json.loads(report.read_text())
    assert "not unpacked" in content["not_measured"]["lmcache_direct"]
    assert {cell["rival"] for cell in content["cells"]} == {"raw_buffered"}


def test_the_unavailable_error_is_told_apart_from_a_failure() -> None:
    assert not issubclass(RivalUnavailableError, OSError)
