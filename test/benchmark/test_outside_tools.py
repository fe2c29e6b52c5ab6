"""The tools are told what their help says, and what they cannot tell is no figure."""

import json
from pathlib import Path

import pytest

from benchmark.outside_tools import TOOLS, Asked, Tool, ToolError, run, trace_lines

ASKED = Asked(contexts=12, context_tokens=384, requests=7, gap_s=0.5)
PRESSURE, AIPERF = TOOLS
RECORD = {
    "num_contexts": 12,
    "retained": 12,
    "retained_tokens": 4608,
    "retained_pct": 400.0,
    "cold_ttft": 1.5,
    "hit_ttft": 0.2,
    "model": "somewhere on this machine",
}


class FakeServer:
    """Where a tool would send its requests."""

    url = "http://127.0.0.1:1"


def fake(home: Path, script: str) -> Tool:
    """Return a tool that is there already: a shell script."""
    program = home / "fake" / "bin" / "fake"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Tool(
        "fake", "fake==1", lambda *_: ["one"], lambda work: {"n": (work / "out").read_text()}
    )


def run_fake(tool: Tool, home: Path) -> object:
    return run(tool, ASKED, FakeServer(), Path("model"), home=home, pool_tokens=1024)


def test_conversations_take_turns_and_each_turn_extends_the_last() -> None:
    rows = [json.loads(line) for line in trace_lines(ASKED)]
    assert [row["timestamp"] for row in rows] == [0, 500, 1000, 1500, 2000, 2500, 3000]
    for earlier, later in zip(rows, rows[3:], strict=False):
        assert later["hash_ids"][:-1] == earlier["hash_ids"]
    assert not set(rows[0]["hash_ids"]) & set(rows[1]["hash_ids"])
    assert all(row["input_length"] == 64 * len(row["hash_ids"]) for row in rows)


def test_figures_come_from_what_a_tool_wrote(tmp_path: Path) -> None:
    tool = fake(tmp_path, 'echo "$1" > out; test -z "$HF_HUB_OFFLINE$PYTHONPATH"')
    assert run_fake(tool, tmp_path) == {"n": "one\n"}


def test_a_tool_that_fails_says_what_it_printed_last(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="exit status 3: no such model"):
        run_fake(fake(tmp_path, "echo no such model; exit 3"), tmp_path)


def test_a_tool_that_runs_for_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.outside_tools.RUN_TIMEOUT_S", 0.2)
    with pytest.raises(ToolError, match="ran for more than 0 s"):
        run_fake(fake(tmp_path, "exec sleep 60"), tmp_path)


def test_retained_contexts_count_only_if_hits_could_be_told_from_misses(tmp_path: Path) -> None:
    (tmp_path / "printed.txt").write_text("Threshold calibration failed")
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    figures = PRESSURE.figures(tmp_path)
    assert figures["retained"] == 12
    assert "model" not in figures
    (tmp_path / "record.json").write_text(json.dumps({**RECORD, "hit_ttft": None}))
    with pytest.raises(ToolError, match="Threshold calibration failed"):
        PRESSURE.figures(tmp_path)


def test_the_trace_is_replayed_by_its_times(tmp_path: Path) -> None:
    command = AIPERF.command(ASKED, FakeServer(), Path("model"), tmp_path, 1024)
    assert "--fixed-schedule" in command
    trace = Path(command[command.index("--input-file") + 1])
    assert len(trace.read_text().splitlines()) == ASKED.requests
    ttft = {"avg": 10.0, "p50": 9.0, "p99": 20.0}
    record = {
        "time_to_first_token": ttft,
        "request_count": {"avg": 7.0},
        "input_sequence_length": {"avg": 448.0},
    }
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps(record))
    assert AIPERF.figures(tmp_path)["requests"] == 7
