"""The write policies on real servers: one after the other, the same turns of conversations.

The model is small and random, as what counts is which pages go where: text becomes tokens by four
bytes each, so that prompts share prefixes as the texts do. Turns are asked one at a time, without
the pauses between them. What is written by then counts, not what shutdown writes.
"""

import math
import shutil
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import models
from benchmark.replay.traces import Turn
from benchmark.serving import Server, has_gpu, scheduler_ms

HOME = Path(__file__).parent.parent / ".cache" / "bench-writes"
POLICIES = ("through", "selective", "evict")
PAGE_SIZE = 64
DEVICE_TOKENS, QUICK_DEVICE_TOKENS = 8192, 2048
HOST_RATIO = 2
WORKING_SETS = 3
"""Distinct pages asked for, over those of device and host."""
ANSWER_TOKENS = 1
SETTLED_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one policy came to."""

    policy: str
    requests: int
    prompt_tokens: int
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    pages_written: int
    bytes_written: int
    scheduler_p50_ms: float
    """Time of our code on the scheduler thread, of a request."""
    scheduler_p99_ms: float
    scheduler_cpu_p50_ms: float
    """Of that: on a core."""
    scheduler_cpu_p99_ms: float


def ask_servers(turns: Sequence[Turn], *, quick: bool) -> list[Asked]:
    """Ask a server a policy for as many turns as the working set takes.

    Raises:
        ServerError: one did not start, or died.
    """
    device_tokens = QUICK_DEVICE_TOKENS if quick else DEVICE_TOKENS
    prompts = prompts_of(turns, device_tokens)
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    found = [_ask(policy, prompts, device_tokens) for policy in POLICIES]
    shutil.rmtree(HOME)
    return found


def prompts_of(turns: Sequence[Turn], device_tokens: int) -> list[list[int]]:
    """Return the first turns, cut to what the device takes, until their pages are enough."""
    pages: set[tuple[int, ...]] = set()
    most = WORKING_SETS * (1 + HOST_RATIO) * device_tokens // PAGE_SIZE
    prompts = []
    for turn in turns:
        prompt = tokens_of(turn.text)[: device_tokens - 2 * PAGE_SIZE]
        if len(prompt) < PAGE_SIZE:
            continue
        if len(pages) >= most:
            break
        ends = range(PAGE_SIZE, len(prompt) + 1, PAGE_SIZE)
        pages.update(tuple(prompt[:end]) for end in ends)
        prompts.append(prompt)
    return prompts


def tokens_of(text: str) -> list[int]:
    """Return a token for every four bytes: equal prefixes of text are equal prefixes of tokens."""
    data = text.encode()
    return [3 + zlib.crc32(data[at : at + 4]) % 400 for at in range(0, len(data) - 3, 4)]


def _ask(policy: str, prompts: Sequence[Sequence[int]], device_tokens: int) -> Asked:
    print(f"bench writes: {len(prompts)} requests under {policy}", file=sys.stderr, flush=True)
    log = HOME / f"{policy}.log"
    flags = (
        *("--page-size", str(PAGE_SIZE), "--max-total-tokens", str(device_tokens)),
        *(() if has_gpu() else ("--dtype", "float32")),
        *("--kv-storage", "lsm", "--kv-storage-path", str(HOME / policy)),
        *("--kv-storage-size", "2GB", "--kv-storage-write", policy),
        *("--hicache-ratio", str(HOST_RATIO)),
        *("--hicache-storage-prefetch-policy", "wait_complete"),
    )
    with Server.start(models.random_llama(models.TINY), flags, log=log) as server:
        replies = [server.generate(input_ids=p, max_new_tokens=ANSWER_TOKENS) for p in prompts]
        pages = _settled_pages(server)
    times = scheduler_ms(log)
    shape = models.TINY
    token_bytes = (
        2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * (2 + 2 * (not has_gpu()))
    )
    return Asked(
        policy=policy,
        requests=len(replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        device_tokens=sum(reply.cached.device for reply in replies),
        host_tokens=sum(reply.cached.host for reply in replies),
        disk_tokens=sum(reply.cached.disk for reply in replies),
        pages_written=pages,
        bytes_written=pages * PAGE_SIZE * token_bytes,
        scheduler_p50_ms=times.get("p50", math.nan),
        scheduler_p99_ms=times.get("p99", math.nan),
        scheduler_cpu_p50_ms=times.get("cpu_p50", math.nan),
        scheduler_cpu_p99_ms=times.get("cpu_p99", math.nan),
    )


def _settled_pages(server: Server) -> int:
    """Return the pages written, once a while passes without another."""
    tokens = -1.0
    while (now := server.metric("sglang:backuped_tokens_total")) != tokens:
        tokens = now
        time.sleep(SETTLED_S)
    return int(tokens) // PAGE_SIZE
