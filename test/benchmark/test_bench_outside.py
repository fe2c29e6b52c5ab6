"""The tool is called as its own help says, and of its record only figures are kept."""

from pathlib import Path

from benchmark.bench_outside import QUICK, kept, tool_command
from benchmark.publish.outside import body

RECORD = {
    "completed": 12,
    "total_input_tokens": 5000,
    "input_throughput": 900.0,
    "mean_ttft_ms": 100.0,
    "median_ttft_ms": 90.0,
    "p99_ttft_ms": 300.0,
    "cache_report": {
        "total_prompt_tokens": 5000,
        "total_cached_tokens": 4000,
        "device_cached_tokens": 0,
        "host_cached_tokens": 0,
        "storage_cached_tokens": 4000,
        "storage_backend": "LsmStorage",
    },
    "server_info": {"model_path": "somewhere on this machine"},
}


def test_the_machine_is_left_out_of_the_record() -> None:
    found = kept(RECORD)
    assert "server_info" not in found
    assert found["cache_report"] == RECORD["cache_report"]


def test_both_counts_stand_side_by_side() -> None:
    ours = {"prompt_tokens": 5000, "cached_tokens": 4000, "ttft_sum_s": 1.2, "ttft_count": 12}
    run = {"row": "lsm", "phase": "after a flush", "theirs": kept(RECORD), "ours": ours}
    told = body({"runs": [run]})
    assert "4000 of 5000" in told
    assert "0/0/4000" in told
    assert "| yes" in told
    assert "5000 asked" in body({"runs": [{**run, "ours": {**ours, "prompt_tokens": 4999}}]})


def test_the_tool_asks_the_same_prompts_each_time() -> None:
    command = tool_command(QUICK, "http://127.0.0.1:1", Path("model"), Path("out"))
    assert command == tool_command(QUICK, "http://127.0.0.1:1", Path("model"), Path("out"))
    assert command[command.index("--seed") + 1] == "1"
    assert "--cache-report" in command


def test_what_other_tools_printed_stands_beside_the_servers_count() -> None:
    ours = {"prompt_tokens": 100, "cached_tokens": 64, "ttft_sum_s": 0, "ttft_count": 0}
    tools = [
        {"tool": "one==1", "row": "lsm", "theirs": {"retained": 12}, "ours": ours},
        {"tool": "two==2", "row": "lsm", "failed": "exit status 1:\na | b", "ours": ours},
    ]
    told = body({"runs": [], "tools": tools, "not_run": {"three": "too large"}})
    assert "retained=12" in told
    assert "64 of 100" in told
    assert "FAILED: exit status 1: a / b" in told
    assert "three: too large." in told
