"""Every benchmark of the row exists, is run with its own file, and none stops the others."""

import importlib.util
import json
import os
from pathlib import Path

import psutil
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
    (agents,) = [job.arguments for job in found if job.stem == "hitrate-x"]
    assert agents[:5] == ("b.tar.xz", "--folder", "x", "--sessions", "4")
    assert all(str(tmp_path / f"{job.stem}.json") in job.arguments for job in found)


def test_without_a_trace_its_benchmarks_are_left_out(tmp_path: Path) -> None:
    steps = [Step("hitrate", needs_trace=True), Step("index", full=("--full",))]
    (job,) = jobs(steps, [], tmp_path, quick=False)
    assert job.stem == "index"
    assert job.arguments[0] == "--full"


def test_a_benchmark_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: bench_all.Job, folder: Path) -> str:
        if job.stem == "index":
            return "FAILED: exit status 3, see index.log"
        content = json.loads((RESULTS / "ttft-quick.json").read_text())
        (folder / f"{job.stem}.json").write_text(json.dumps(content))
        return bench_all.ENDED_WELL

    monkeypatch.setattr(bench_all, "run", run)
    assert main(["--quick", "--only", "index", "ttft", "--folder", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "exit status 3, see index.log" in told
    assert "ended well" in told
    assert "Time to first token" in (tmp_path / "RESULTS.md").read_text()


def test_a_benchmark_left_out_for_want_of_a_trace_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_all, "run", lambda job, folder: bench_all.ENDED_WELL)
    content = (RESULTS / "ttft-quick.json").read_text()
    (tmp_path / "ttft.json").write_text(content)
    chosen = ["--only", "index", "hitrate", "agent", "--trace", "a.jsonl.gz"]
    assert main(["--quick", *chosen, "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    (agent,) = [line for line in told if "agent" in line]
    assert "left out: no --trace of its form" in agent
    assert not any("left out" in line for line in told if "hitrate" in line)


def test_when_the_half_hour_is_up_the_rest_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = []

    def run(job: bench_all.Job, folder: Path) -> str:
        limits.append(job.limit_s)
        monkeypatch.setattr(bench_all, "QUICK_S", 0.0)
        (folder / "ttft.json").write_text((RESULTS / "ttft-quick.json").read_text())
        return bench_all.ENDED_WELL

    monkeypatch.setattr(bench_all, "run", run)
    monkeypatch.setattr(bench_all, "QUICK_S", 50.0)
    assert main(["--quick", "--only", "ttft", "outside", "--folder", str(tmp_path)]) == 1
    assert len(limits) == 1
    assert limits[0] <= 50.0
    (outside,) = [line for line in capsys.readouterr().out.splitlines() if "| outside" in line]
    assert "LEFT OUT: the half hour was up" in outside


def test_output_goes_to_a_log(tmp_path: Path) -> None:
    job = bench_all.Job("usage", "benchmark.bench_index", ("--no-such-option",))
    assert bench_all.run(job, tmp_path) == "FAILED: exit status 2, see usage.log"
    assert "--no-such-option" in (tmp_path / "usage.log").read_text()


def test_every_quick_form_has_a_limit_and_no_full_one_has(tmp_path: Path) -> None:
    traces = ["b.tar.xz:x"]
    assert all(job.limit_s for job in jobs(STEPS, traces, tmp_path, quick=True))
    assert not any(job.limit_s for job in jobs(STEPS, traces, tmp_path, quick=False))


SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(child.pid, flush=True)
{ignoring}
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
IGNORING = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@pytest.mark.parametrize("ignoring", ["", IGNORING])
def test_at_its_limit_a_benchmark_ends_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignoring: str
) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER.format(ignoring=ignoring))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(bench_all, "GRACE_S", 2.0)
    (tmp_path / "sleeper.json").write_text("of an earlier run")
    verdict = bench_all.run(bench_all.Job("sleeper", "sleeper", (), limit_s=3.0), tmp_path)
    assert verdict == "STOPPED at its limit of 3 s, nothing is on the page, see sleeper.log"
    child, *told = (tmp_path / "sleeper.log").read_text().split()
    assert told == ([] if ignoring else ["interrupted"])
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == "zombie"
    assert not (tmp_path / "sleeper.json").exists()
