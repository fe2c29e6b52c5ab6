"""The scripts on machines that are not this one: with a GPU, without a fitting Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = (
    "bash", "cat", "cut", "dirname", "env", "find", "flock", "grep", "id", "mkdir", "sed",
    "sha256sum", "sort", "tail",
)  # fmt: skip

GPU_PYTHON = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
    -) echo "$0" ;;
    *freeze*) printf 'torch==2.9.0\\nsglang==0.5.23\\nruff==0.1.0\\n' ;;
esac
"""
OLD_PYTHON = """#!/bin/sh
case "$*" in
    --version) echo "Python 3.9.2" ;;
    -) ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout, and a PATH that holds a few tools and the given interpreter as python3."""
    for path in ("scripts", "cpu_runtime"):
        shutil.copytree(ROOT / path, tmp_path / path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def with_python(checkout, text):
    python = checkout / "bin" / "python3"
    python.write_text(text)
    python.chmod(0o755)


def run(checkout, *command):
    env = {"PATH": str(checkout / "bin"), "CALLS": str(checkout / "calls"), "HOME": os.devnull}
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)


def test_setup_adds_only_this_package_beside_a_gpu_and_nothing_the_second_time(checkout):
    with_python(checkout, GPU_PYTHON)
    done = run(checkout, "scripts/setup")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{checkout}/bin/python3\n"
    calls = (checkout / "calls").read_text()
    installs = [line for line in calls.splitlines() if "pip install" in line]
    assert len(installs) == 1
    assert f"-c {checkout}/.cache/setup.pins -e {checkout}[dev,bench]" in installs[0]
    assert "cpu_runtime" not in calls
    assert not (checkout / ".venv").exists()
    pins = (checkout / ".cache/setup.pins").read_text()
    assert pins == "torch==2.9.0\nsglang==0.5.23\n"

    again = run(checkout, "scripts/setup")
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert (checkout / "calls").read_text() == calls


def test_setup_runs_again_when_a_pin_changes(checkout):
    with_python(checkout, GPU_PYTHON)
    run(checkout, "scripts/setup")
    calls = (checkout / "calls").read_text()
    with (checkout / "cpu_runtime" / "requirements.txt").open("a") as pins:
        pins.write("another==1.0\n")
    assert run(checkout, "scripts/setup").returncode == 0
    assert len((checkout / "calls").read_text()) > len(calls)


def test_setup_says_which_python_it_needs(checkout):
    with_python(checkout, OLD_PYTHON)
    done = run(checkout, "scripts/setup")
    assert done.returncode == 1
    assert "needs Python 3.11 or 3.12; found Python 3.9.2" in done.stderr
    assert done.stdout == ""


def test_setup_shows_the_end_of_the_log_when_a_step_fails(checkout):
    with_python(
        checkout, GPU_PYTHON + 'case "$*" in *install*) echo no space left; exit 1 ;; esac\n'
    )
    done = run(checkout, "scripts/setup")
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert not (checkout / ".cache/setup.stamp").exists()


def test_bench_lists_what_there_is():
    names = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmark").glob("bench_*.py")}
    for command in (["scripts/bench"], ["scripts/bench", "nonsense"]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert names <= set(done.stderr.split())


def test_check_refuses_an_unknown_option(checkout):
    with_python(checkout, GPU_PYTHON)
    assert run(checkout, "scripts/check", "--fi").returncode == 2
