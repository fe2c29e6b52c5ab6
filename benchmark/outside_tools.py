"""Other people's load tools, each in a virtual environment of its own, driving our server.

`cache-pressure` fills a server with more contexts than its pools hold and asks for them again in
reverse, telling hits from misses by the time to the first token alone. `aiperf` replays a trace in
Mooncake's form by its times of arrival. Neither knows of this project. What a tool wrote down is
kept as it is; one that cannot be fetched or fails is a row with the reason.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.serving import Server, server_environment

FETCH_TIMEOUT_S, RUN_TIMEOUT_S = 240.0, 200.0
GUIDELLM = (
    "not run: guidellm 0.8.1 installs torch with its CUDA libraries, 6 GB beside the server's own; "
    "aiperf asks the same question"
)
_TAIL = 600
# What this process imports from is not theirs; and told to be offline, aiperf takes no folder for a
# tokenizer.
_NOT_PASSED = ("PYTHONPATH", "HF_HUB_OFFLINE")


class ToolError(Exception):
    """A tool could not be fetched or failed; the message ends with what it printed last."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the tools are told to ask."""

    contexts: int
    """Of `cache-pressure`; in all more than device and host hold."""
    context_tokens: int
    requests: int
    """Of `aiperf`'s trace."""
    gap_s: float
    block_tokens: int = 64
    shared_blocks: int = 6
    """Blocks that the prompts of one of its conversations begin with."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: where it comes from, how it is called, and which of its figures are kept."""

    name: str
    pin: str
    command: Callable[[Asked, Server, Path, Path, int], Sequence[str]]
    """From what is asked, the server, the model, the folder for its files and the device's tokens;
    without the program itself."""
    figures: Callable[[Path], Mapping[str, object]]
    """What it wrote into that folder."""


def run(tool: Tool, asked: Asked, server: Server, model: Path, *, home: Path, pool_tokens: int) -> (
    Mapping[str, object]
):  # fmt: skip
    """Fetch a tool where it is missing, run it against a server and return its figures.

    Raises:
        ToolError: it could not be fetched, failed, or ran for too long.
    """
    program = fetch(tool, home)
    work = home / f"{tool.name}-work"
    work.mkdir(parents=True, exist_ok=True)
    command = [str(program), *tool.command(asked, server, model, work, pool_tokens)]
    env = {name: text for name, text in server_environment().items() if name not in _NOT_PASSED}
    done = _call(command, timeout_s=RUN_TIMEOUT_S, env={**env, "HOME": str(work)}, cwd=work)
    (work / "printed.txt").write_text(done)
    return tool.figures(work)


def fetch(tool: Tool, home: Path) -> Path:
    """Return the program of a tool, from a virtual environment made once.

    Raises:
        ToolError: it could not be fetched.
    """
    place = home / tool.name
    program = place / "bin" / tool.name
    if not program.exists():
        _call([sys.executable, "-m", "venv", "--clear", str(place)], timeout_s=FETCH_TIMEOUT_S)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        try:
            _call([*pip, "--disable-pip-version-check", tool.pin], timeout_s=FETCH_TIMEOUT_S)
        except ToolError:
            program.unlink(missing_ok=True)
            raise
    return program


def trace_lines(asked: Asked) -> list[str]:
    """Return Mooncake's form: conversations that take turns, each turn a block longer."""
    lines = []
    for number in range(asked.requests):
        who, turn = number % 3, number // 3
        own = [1000 * (who + 1) + i for i in range(asked.shared_blocks + turn)]
        row = {
            "timestamp": int(number * asked.gap_s * 1e3),
            "input_length": len(own) * asked.block_tokens,
            "output_length": 4,
            "hash_ids": own,
        }
        lines.append(json.dumps(row))
    return lines


def _pressure(asked: Asked, server: Server, _: Path, work: Path, pool_tokens: int) -> list[str]:
    return [
        *("--base-url", f"{server.url}/v1", "--kv-size", str(pool_tokens)),
        *("--context-tokens", str(asked.context_tokens), "--num-contexts", str(asked.contexts)),
        *("--max-tokens-hydrate", "4", "--max-tokens-verify", "4"),
        *("--output", str(work / "record.json")),
    ]


def _pressure_figures(work: Path) -> Mapping[str, object]:
    record = json.loads((work / "record.json").read_text())
    if not record["hit_ttft"]:
        printed = (work / "printed.txt").read_text()
        raise ToolError(f"it could not tell a hit from a miss: {printed[:_TAIL].strip()}")
    names = ("num_contexts", "retained", "retained_tokens", "retained_pct", "cold_ttft", "hit_ttft")
    return {name: record[name] for name in names}


def _aiperf(asked: Asked, server: Server, model: Path, work: Path, _: int) -> list[str]:
    trace = work / "trace.jsonl"
    trace.write_text("".join(f"{line}\n" for line in trace_lines(asked)))
    return [
        *("profile", "--model", str(model), "--tokenizer", str(model), "--url", server.url),
        *("--endpoint-type", "chat", "--streaming", "--input-file", str(trace)),
        *("--custom-dataset-type", "mooncake_trace", "--fixed-schedule"),
        *("--isl-block-size", str(asked.block_tokens), "--random-seed", "1", "--ui", "none"),
        *("--output-artifact-dir", str(work)),
    ]


def _aiperf_figures(work: Path) -> Mapping[str, object]:
    record = json.loads(next(work.rglob("profile_export_aiperf.json")).read_text())
    ttft = record["time_to_first_token"]
    return {
        "requests": int(record["request_count"]["avg"]),
        **{f"ttft_{name}_ms": ttft[name] for name in ("avg", "p50", "p99")},
        "input_tokens_mean": record["input_sequence_length"]["avg"],
    }


TOOLS = (
    Tool("cache-pressure", "cache-pressure==0.6.3", _pressure, _pressure_figures),
    Tool("aiperf", "aiperf==0.13.0", _aiperf, _aiperf_figures),
)


def _call(
    command: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command and return what it printed."""
    try:
        done = subprocess.run(
            command,
            env=dict(env or os.environ),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"ran for more than {timeout_s:.0f} s") from error
    if done.returncode:
        raise ToolError(f"exit status {done.returncode}: {done.stdout[-_TAIL:].strip()}")
    return done.stdout
