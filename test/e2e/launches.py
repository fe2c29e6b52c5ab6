"""Launching servers for tests: one at a time, reused while the same launch is asked for.

A start costs half a minute, most of it imports; so tests share a server, and those that need
another launch on a directory stop it first.
"""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.serving import Reply, Server, launch_command, server_environment

PAGE_TOKENS = 64
DEVICE_TOKENS = 4096
HOST_RATIO = 2
HOST_TOKENS = HOST_RATIO * DEVICE_TOKENS
ANSWER_TOKENS = 16

SIZING = (
    *("--max-total-tokens", str(DEVICE_TOKENS)),
    # Said aloud: by default SGLang starts no host tier on a machine with less than 10 GiB to spare.
    *("--hicache-ratio", str(HOST_RATIO)),
    # What the reference answers are computed in.
    *("--dtype", "float32"),
    # On a busy machine the default policy may give a read up, and hits would not be exact.
    *("--hicache-storage-prefetch-policy", "wait_complete"),
)

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The tiny model gains nothing from a second thread, and where other work takes one of the cores,
the first waits for it at each step: ten times the time, on a busy machine of two cores."""


def tier_flags(directory: Path, *, size: str = "512MiB", write: str = "through") -> tuple[str, ...]:
    """Return the flags that turn the disk tier on.

    Written through, a page is on disk soon after its answer, and a test can wait for it.
    """
    return (
        *("--kv-storage", "lsm", "--kv-storage-path", str(directory)),
        *("--kv-storage-size", size, "--kv-storage-write", write),
        # The tiny model computes about as fast as it loads, so hits would not be exact.
        *("--kv-storage-gate", "off"),
    )


class Launcher:
    """Runs one server at a time. Owned by the test run's one thread."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._num_starts = 0
        self._server: Server | None = None
        self._running: tuple[object, ...] = ()

    def serve(self, model: Path, directory: Path, *flags: str) -> Server:
        """Run `launch` with the tier on in `directory`; `flags` come last, so they win."""
        return self.launch(model, *SIZING, *tier_flags(directory), *flags)

    def launch(self, model: Path, *flags: str) -> Server:
        """Return the running server of this launch, else start it; the one before is stopped."""
        if self._server is not None and self._running == (model, flags):
            return self._server
        self.stop()
        self._num_starts += 1
        log = self._logs / f"server-{self._num_starts}.log"
        self._server = Server.start(model, flags, log=log, env=ONE_THREAD)
        self._running = model, flags
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


def evict(
    server: Server, new_prompt: Callable[[int], list[int]], *, num_tokens: int, store: bool
) -> None:
    """Push older prompts out by asking others of `num_tokens` together; `store` waits for each."""
    size = 2048
    for _ in range(-(-num_tokens // size)):
        (ask_and_store if store else ask)(server, new_prompt(size))


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
