"""What does tuning cost the calls it watches, and how much of a core does its thread take?

    python -m benchmark.bench_overhead --quick
    python -m benchmark.bench_overhead --json FILE

One store, one stream of puts and gets. Slices without a controller and slices with one that looks
as it does in a server, and changes nothing (`observe`), take turns. The slices without are dealt
into two halves as well: how far those lie apart is what this machine cannot tell.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglang_lsm.config import GIB, MIB, LogConfig, StoreConfig
from sglang_lsm.controller.profiler import measure_profile
from sglang_lsm.controller.tuner import Senses, Tuner
from sglang_lsm.fs import LocalFileSystem, available_memory_bytes
from sglang_lsm.pages import PagePath
from sglang_lsm.periodic import Periodic
from sglang_lsm.store import Store

from benchmark.harness import machine_facts, percentile, print_facts, table, write_json
from benchmark.pagedata import (
    aligned_memory,
    benchmark_fingerprint,
    chained_hashes,
    split_pages,
)

KINDS = ("off", "tuned", "off again")
CALLS = ("put", "get")
_INTERVAL_S = 1.0
"""As in a server."""
_PAGES, _PAGE_BYTES = 32, 64 << 10
_NUM_KEPT = 200
"""Prompts that are read again and again."""


@dataclass(slots=True)
class Found:
    """What was measured, by kind of slice."""

    call_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Of each call, by kind of slice and call."""
    tuner_cpu_s: float = 0.0
    num_steps: int = 0

    def milliseconds(self, kind: str, call: str, share: float) -> float:
        """Return a percentile."""
        return percentile(self.call_s[kind, call], share) * 1e3

    @property
    def core_share(self) -> float:
        """Of one core, what the thread takes that looks once in _INTERVAL_S; 0 before a look.

        Not over the time of the slices: the last look of each is cut off.
        """
        return self.tuner_cpu_s / max(self.num_steps, 1) / _INTERVAL_S


def measure(directory: Path, *, num_rounds: int, slice_s: float, seed: int) -> Found:
    """Run slices of each kind in turn, in an order of its own in each round."""
    profile = measure_profile(LocalFileSystem(), directory)
    config = StoreConfig(quota_bytes=4 * GIB, log=LogConfig(segment_bytes=64 * MIB))
    store = Store.open(directory / "store", config)
    found, stream = Found(), _Stream(store, seed)
    senses = Senses(note=lambda entry: None, cache_bytes=lambda: float(available_memory_bytes()))
    try:
        stream.run(Found(), "off", slice_s)
        for _ in range(num_rounds):
            for kind in stream.random.sample(KINDS, len(KINDS)):
                if kind != "tuned":
                    stream.run(found, kind, slice_s)
                    continue
                tuner = Tuner(store, profile, senses, mode="observe")
                thread = Periodic("kv-storage-tune", _INTERVAL_S, lambda t=tuner: _step(t, found))
                try:
                    stream.run(found, kind, slice_s)
                finally:
                    thread.stop()
                    tuner.close()
    finally:
        store.close()
    return found


def _step(tuner: Tuner, found: Found) -> None:
    started_s = time.thread_time()
    tuner.step()
    found.tuner_cpu_s += time.thread_time() - started_s
    found.num_steps += 1


class _Stream:
    """A put of a new prompt and a get of an old one, in turn."""

    def __init__(self, store: Store, seed: int) -> None:
        self.random = random.Random(seed)
        self._store = store
        self._namespace = store.register(benchmark_fingerprint())
        memory = aligned_memory(_PAGES * _PAGE_BYTES)
        memory[:] = self.random.randbytes(len(memory))
        self._pages = split_pages(memory, _PAGE_BYTES)
        self._out = split_pages(aligned_memory(_PAGES * _PAGE_BYTES), _PAGE_BYTES)
        self._num_put = 0

    def run(self, found: Found, kind: str, seconds: float) -> None:
        puts, gets = (found.call_s.setdefault((kind, call), []) for call in CALLS)
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            path = self._path(self._num_put)
            started_s = time.perf_counter()
            self._store.put_batch(path, self._pages)
            puts.append(time.perf_counter() - started_s)
            self._num_put += 1
            path = self._path(self.random.randrange(max(0, self._num_put - _NUM_KEPT),
                                                    self._num_put))  # fmt: skip
            started_s = time.perf_counter()
            self._store.get_batch(path, self._out)
            gets.append(time.perf_counter() - started_s)

    def _path(self, number: int) -> PagePath:
        return PagePath(self._namespace, chained_hashes(f"overhead {number}", _PAGES))


def rows_of(found: Found) -> list[dict[str, object]]:
    """Return a row a call and percentile: milliseconds by kind of slice."""
    return [
        {"call": call, "share": share}
        | {kind: found.milliseconds(kind, call, share) for kind in KINDS}
        for call in CALLS
        for share in (0.5, 0.99)
    ]


def text_of(rows: Sequence[Mapping[str, object]], found: Found) -> str:
    """Return the table, and the share of a core."""
    lines = []
    for row in rows:
        off = (row["off"] + row["off again"]) / 2
        lines.append([
            f"{row['call']} p{row['share'] * 100:.0f} ms", *(f"{row[kind]:.3f}" for kind in KINDS),
            f"{row['tuned'] / off - 1:+.1%}", f"{row['off again'] / row['off'] - 1:+.1%}",
        ])  # fmt: skip
    head = ["", *KINDS, "tuning adds", "without it, apart by"]
    return (
        f"{table(head, lines)}\n\nThe controller's thread takes {found.core_share:.2%} of a core, "
        f"{found.tuner_cpu_s / max(found.num_steps, 1) * 1e3:.1f} ms a step.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    print_facts(facts)
    num_rounds = options.rounds or (4 if options.quick else 20)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        found = measure(Path(name), num_rounds=num_rounds, slice_s=options.slice, seed=options.seed)
    rows = rows_of(found)
    print(text_of(rows, found))
    if options.json:
        write_json(
            options.json,
            {
                "benchmark": "overhead",
                "machine": facts,
                "rows": rows,
                "settings": {"rounds": num_rounds, "slice_s": options.slice},
                "core_share": found.core_share,
                "num_steps": found.num_steps,
            },
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute instead of four")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--slice", type=float, default=3.5, metavar="S", help="of one kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
