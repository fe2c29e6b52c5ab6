"""Every benchmark of the row exists, is run with its own file, and none stops the others."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmark import bench_all
from benchmark.bench_all import STEPS, Step, jobs, main
from benchmark.bench_results import RESULTS


def test_every_step_is_a_benchmark_with_a_file_of_its_own(tmp_path: Path) -> None:
    found = list(jobs(STEPS, ["a.jsonl.gz", "b.tar.xz:x"], tmp_path, quick=True))
    assert all(importlib.util.find_spec(job.module) for job in found)
    assert all("--quick" in job.arguments for job in found)
    stems = [job.stem for job in found]
    assert len(set(stems)) == len(stems)
    assert {"hitrate-a", "hitrate-x", "agent-x"} <= set(stems)
    assert "agent-a" not in stems
    assert all(str(tmp_path / f"{job.stem}.json") in job.arguments for job in found)


def test_without_a_trace_its_benchmarks_are_left_out(tmp_path: Path) -> None:
    steps = [Step("hitrate", needs_trace=True), Step("index", full=("--full",))]
    (job,) = jobs(steps, [], tmp_path, quick=False)
    assert job.stem == "index"
    assert job.arguments[0] == "--full"


def test_a_benchmark_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: bench_all.Job, folder: Path) -> int:
        if job.stem == "index":
            return 3
        content = json.loads((RESULTS / "ttft-quick.json").read_text())
        (folder / f"{job.stem}.json").write_text(json.dumps(content))
        return 0

    monkeypatch.setattr(bench_all, "run", run)
    assert main(["--quick", "--only", "index", "ttft", "--folder", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "exit status 3, see index.log" in told
    assert "ended well" in told
    assert "Time to first token" in (tmp_path / "RESULTS.md").read_text()


def test_output_goes_to_a_log(tmp_path: Path) -> None:
    job = bench_all.Job("usage", "benchmark.bench_index", ("--no-such-option",))
    assert bench_all.run(job, tmp_path) == 2
    assert "--no-such-option" in (tmp_path / "usage.log").read_text()
