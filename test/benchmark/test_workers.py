"""A rival that goes wrong in its process becomes a reason, never a hole in the table."""

from pathlib import Path

import pytest
from support.failing_work import die, lose, mistake, refuse

from benchmark.measure import Cell
from benchmark.workers import Task, Unmeasured, WorkerDiedError, run_alone, worker_pool


def test_each_way_to_fail_alone_is_told_apart() -> None:
    assert run_alone(refuse) == Unmeasured("no such library", failed=False)
    assert run_alone(lose) == Unmeasured("failed: pages are missing", failed=True)
    died = run_alone(die)
    assert isinstance(died, Unmeasured)
    assert died.failed
    with pytest.raises(KeyError):
        run_alone(mistake)


def test_a_worker_measures_cell_after_cell_and_its_death_is_reported(tmp_path: Path) -> None:
    cell = Cell(page_bytes=8192, batch_pages=4, set_bytes=8 * 8192, phase_s=5.0)
    with worker_pool(["raw_buffered"], tmp_path) as (workers, reasons):
        assert not reasons
        worker = workers["raw_buffered"]
        assert worker.run(Task(cell, 1))["num_put_calls"] == 2
        assert worker.run(Task(cell, 2))["num_put_calls"] == 2
        # The directory is in the way, so that the process fails.
        (tmp_path / "raw_buffered").mkdir()
        with pytest.raises(WorkerDiedError, match="exit_code=1"):
            worker.run(Task(cell, 3))
