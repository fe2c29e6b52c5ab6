"""Launching servers for tests: one at a time, reused while the same launch is asked for.

A start costs half a minute, most of it imports; so tests share a server, and those that need
another launch on a directory stop it first.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmark.serving import Reply, Server, launch_command, server_environment

PAGE_TOKENS = 64
DEVICE_TOKENS = 4096
HOST_TOKENS = 2 * DEVICE_TOKENS
"""SGLang's default ratio."""
ANSWER_TOKENS = 16

SIZING = (
    *("--max-total-tokens", str(DEVICE_TOKENS)),
    # What the reference answers are computed in.
    *("--dtype", "float32"),
    # On a busy machine the default policy may give a read up, and hits would not be exact.
    *("--hicache-storage-prefetch-policy", "wait_complete"),
)


def tier_flags(directory: Path, size: str = "512MiB") -> tuple[str, ...]:
    """Return the flags that turn the disk tier on."""
    return (
        *("--kv-storage", "lsm", "--kv-storage-path", str(directory)),
        *("--kv-storage-size", size),
    )


class Launcher:
    """Runs one server at a time. Owned by the test run's one thread."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._num_starts = 0
        self._server: Server | None = None
        self._launch: tuple[object, ...] = ()

    def serve(self, model: Path, directory: Path, *flags: str, size: str = "512MiB") -> Server:
        """Return the running server of this launch, else start it; the one before is stopped."""
        return self.run(model, *SIZING, *tier_flags(directory, size), *flags)

    def run(self, model: Path, *flags: str) -> Server:
        """As `serve`, with nothing but these flags."""
        launch = (model, flags)
        if self._server is not None and self._launch == launch:
            return self._server
        self.stop()
        self._num_starts += 1
        log = self._logs / f"server-{self._num_starts}.log"
        self._server, self._launch = Server.start(model, flags, log=log), launch
        return self._server

    def stop(self) -> None:
        """Stop the server, if one runs, as an operator would."""
        if self._server is not None:
            self._server.stop()
        self._server = None

    def kill9(self) -> None:
        """Kill the server, if one runs, as a crash would."""
        if self._server is not None:
            self._server.kill9()
        self._server = None


def full_page_tokens(prompt: Sequence[int]) -> int:
    """Return how many tokens of a prompt lie in full pages: what tiers can hold."""
    return len(prompt) // PAGE_TOKENS * PAGE_TOKENS


def ask(server: Server, prompt: Sequence[int]) -> Reply:
    """Continue a prompt greedily."""
    return server.generate(input_ids=prompt, max_new_tokens=ANSWER_TOKENS)


def ask_and_store(server: Server, prompt: Sequence[int], *, num_new: int | None = None) -> Reply:
    """Ask, and wait until the disk tier has taken `num_new` tokens of the prompt; default all.

    Every writing test waits for its own pages, so the count stands still in between.
    """
    before = int(server.metric("sglang:backuped_tokens_total"))
    reply = ask(server, prompt)
    server.wait_backed_up(before + (full_page_tokens(prompt) if num_new is None else num_new))
    return reply


def refusal(model: Path, *flags: str) -> str:
    """Launch a server that must be refused before its model loads; return its one message."""
    done = subprocess.run(
        launch_command(model, 1, flags),
        env=server_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert "Load weight" not in done.stdout
    (message,) = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    return message
