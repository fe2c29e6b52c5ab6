"""The engine benchmark measures what it says, and says what it could not measure."""

import json
import time
from pathlib import Path

import pytest

from benchmark.bench_engine import Driver, Plan, main
from benchmark.measure import Cell, WrongPagesError, measure
from benchmark.report import point_tables
from benchmark.rivals import RIVALS, RivalSpec
from benchmark.rivals.raw_file import RawFile
from benchmark.workers import worker_pool

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
    (reported,) = content["not_measured"]
    assert reported["rival"] == "lmcache_direct"
    assert "not unpacked" in reported["reason"]
    assert {cell["rival"] for cell in content["cells"]} == {"raw_buffered"}


def test_a_rival_that_dies_in_one_cell_is_measured_in_the_others(tmp_path: Path) -> None:
    # The page does not fit the alignment of O_DIRECT, so the first write is refused.
    odd = Cell(page_bytes=6000, batch_pages=4, set_bytes=24000, phase_s=5.0)
    plan = Plan((odd, TINY), num_rounds=2, limit_minutes=1.0)
    with worker_pool(["raw_direct"], tmp_path) as (workers, reasons):
        driver = Driver(workers, reasons, plan, end_s=time.monotonic() + 60)
        assert driver.run(None, seed=1)
    assert [(cell.point, cell.round_number) for cell in driver.cells] == [
        (TINY.point, 0),
        (TINY.point, 1),
    ]
    assert "failed" in driver.reasons["raw_direct", odd.point]
    tables = point_tables(driver.cells, ["raw_direct"], driver.reasons)
    assert "raw_direct" in tables
