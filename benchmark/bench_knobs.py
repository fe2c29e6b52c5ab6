"""Which setting matters how much, on which workload and device? By the cost model; no store runs.

    python -m benchmark.bench_knobs --quick
    python -m benchmark.bench_knobs --json FILE

One setting at a time leaves its default, and the cost predicted is compared. Four devices are
nominal: what data sheets of their kind say, not one that was measured. The fifth is the one below
`--dir`. What calls cost beside moving bytes is measured here for all of them.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from sglang_lsm.config import GIB, KIB, MIB, LogConfig, StoreConfig
from sglang_lsm.controller.cost_model import predict
from sglang_lsm.controller.policy import CHOICES, Value, value_of, with_value
from sglang_lsm.controller.profile import DeviceProfile, Kind, Point
from sglang_lsm.controller.profiler import DEPTHS, SIZES, measure_profile
from sglang_lsm.controller.reuse import Reuse
from sglang_lsm.controller.window import Surroundings, Window
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.pages import PagePath
from sglang_lsm.store import Store
from sglang_lsm.tensorlog.io_modes import READS_BEFORE_FILLING

from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.pagedata import (
    aligned_memory,
    benchmark_fingerprint,
    chained_hashes,
    split_pages,
)
from benchmark.publish.knobs import body

KNOBS: Mapping[str, Sequence[Value]] = {
    **CHOICES,
    "log.merge_max_runs": (2, 4, 8),
    "index.bloom_bits_per_key": (0, 5, 10, 15),
    "index.block_cache_bytes": (0, 16 * MIB, 64 * MIB, 256 * MIB),
}
"""All that the model knows of: what can change live, and what is set once. What the codec is worth
depends on what comes back to a full store (`controller.codec_cost`), so it has no row here."""
_PAGE = 64 * KIB
_CALL = 2 * MIB
_SEGMENT = 64 * MIB
_RATE = 0.1 * GIB
_RECOMPUTE_BYTES_PER_S = 1.3e9
"""10,000 tokens of 128 KiB a second, as an 8B model on one GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device by its data sheet."""

    latency_s: float
    read_bytes_per_s: float
    write_bytes_per_s: float
    lanes: int
    """Calls that go on side by side; more wait for each other."""
    sync_s: float


NOMINAL = {
    "SATA SSD": Device(
        latency_s=1.2e-4, read_bytes_per_s=5.4e8, write_bytes_per_s=5.0e8, lanes=8, sync_s=3e-3
    ),
    "NVMe": Device(
        latency_s=8e-5, read_bytes_per_s=6.5e9, write_bytes_per_s=4.5e9, lanes=8, sync_s=1e-3
    ),
    "network disk": Device(
        latency_s=1e-3, read_bytes_per_s=1.0e9, write_bytes_per_s=1.0e9, lanes=8, sync_s=4e-3
    ),
    "HDD": Device(
        latency_s=9e-3, read_bytes_per_s=2.0e8, write_bytes_per_s=1.9e8, lanes=1, sync_s=2.5e-2
    ),
}
_MEMORY_BYTES_PER_S = 6e9
_CPU_S_PER_BYTE: Mapping[Kind, float] = {
    "read_direct": 5e-11, "read_cold": 3e-10, "read_hot": 1.5e-10, "write_direct": 1e-10,
    "write_buffered": 2e-10,
}  # fmt: skip


def profile_of(device: Device) -> DeviceProfile:
    """Return the profile that a nominal device would be measured to have."""
    points = []
    for kind, cpu in _CPU_S_PER_BYTE.items():
        is_in_memory = kind in ("read_hot", "write_buffered")
        limit = device.write_bytes_per_s if kind == "write_direct" else device.read_bytes_per_s
        # Through the page cache, the copy comes on top of the transfer.
        s_per_byte = 1.0 / limit + (1.0 / _MEMORY_BYTES_PER_S if kind == "read_cold" else 0.0)
        for size in SIZES:
            for depth in DEPTHS:
                one = size / (device.latency_s + size * s_per_byte)
                speed = min(1.0 / s_per_byte, one * min(depth, device.lanes))
                points.append(
                    Point(kind, size, depth, _MEMORY_BYTES_PER_S if is_in_memory else speed, cpu)
                )
    return DeviceProfile(tuple(points), sync_s=device.sync_s)


class Own(NamedTuple):
    """CPU seconds a page beside moving bytes."""

    get_s: float
    put_s: float
    ask_s: float
    """Of a put, finding out that the page is not there."""


def measure_own(directory: Path) -> Own:
    """Return what calls of 2 MiB cost in this process, from a small store below `directory`."""
    memory = aligned_memory(_CALL)
    pages = split_pages(memory, _PAGE)
    store = Store.open(
        directory, StoreConfig(quota_bytes=GIB, log=LogConfig(segment_bytes=_SEGMENT))
    )
    try:
        namespace = store.register(benchmark_fingerprint())
        paths = [PagePath(namespace, chained_hashes(f"own {i}", len(pages))) for i in range(64)]
        for path in paths:
            store.put_batch(path, pages)
        for path in paths:
            store.get_batch(path, pages)
        found, num_pages = store.stats(), len(paths) * len(pages)
    finally:
        store.close()
    return Own(*(s / num_pages for s in (found.read_own_s, found.write_own_s, found.ask_s)))


def windows(own: Own) -> dict[str, Window]:
    """Return the workloads: a hundred MiB a second of each, in calls of 2 MiB."""
    pages = _RATE / _PAGE
    read = {"gets": _RATE / _CALL, "bytes_got": _RATE, "extents_got": _RATE / _CALL,
            "read_own_s": pages * own.get_s}  # fmt: skip
    write = {"puts": _RATE / _CALL, "bytes_put": _RATE, "pages_put": pages,
             "write_own_s": pages * own.put_s, "ask_s": pages * own.ask_s}  # fmt: skip
    half = {name: rate / 2 for name, rate in (read | write).items()}
    probes = {"pages_probed": _RATE / _PAGE, "pages_hit": _RATE / _PAGE}
    # What merging leaves: the first reads of each page, one in ten.
    first = _RATE / 10
    pieces = first / (4 * _PAGE)
    scattered = {
        "bytes_scattered": first, "extents_scattered": pieces, "bytes_merged": first,
        "extents_got": pieces + (_RATE - first) / _CALL,
    }  # fmt: skip
    three = {"extents_got": 3 * _RATE / _CALL}
    more = _PAGE / (4 * KIB)
    small = {name: write[name] * more for name in ("pages_put", "write_own_s", "ask_s")}
    small |= {"pages_probed": _RATE / (4 * KIB), "num_pages": 1e8}
    return {
        "hot set": _window(0.95, 1.0, **read, **probes),
        "beyond memory": _window(0.05, 0.9, **read, **probes),
        "scattered, again": _window(0.05, 0.9, **{**read, **scattered}, **probes),
        # Too few for `tiered` to copy together, and one too many for `leveled`.
        "in three runs, again": _window(0.05, 0.9, **read | three, **probes),
        "read once": _window(0.0, 0.0, **read, **probes),
        "new prompts": _window(0.0, 0.0, **write, pages_probed=_RATE / _PAGE),
        "half and half": _window(0.3, 0.6, **half, **probes),
        "new, 4 KiB pages": _window(0.0, 0.0, **{**write, **small}),
    }


def _window(cached: float, again: float, **rates: float) -> Window:
    # As much as is filled anew with what is not there any more.
    fills = (again - cached) / (READS_BEFORE_FILLING + 1)
    around = Surroundings(
        cache_bytes=8.0 * GIB,
        reuse=Reuse(cached=cached, cached_by_reads=cached, fills=fills, again=again),
        recompute_s_per_byte=1.0 / _RECOMPUTE_BYTES_PER_S,
    )
    return Window(
        seconds=1.0, around=around, **{"allocated_bytes": 500.0 * GIB, "num_pages": 8e6, **rates}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting on one device and workload; costs in seconds a second of workload."""

    device: str
    workload: str
    setting: str
    default: Value
    default_s: float
    best: Value
    best_s: float
    worst: Value
    worst_s: float


def rows_of(profiles: Mapping[str, DeviceProfile], own: Own) -> Iterator[Row]:
    """Yield what each setting does alone, the others at their defaults."""
    base = StoreConfig(quota_bytes=1 << 40)
    for device, profile in profiles.items():
        for workload, window in windows(own).items():
            for setting, values in KNOBS.items():
                default = value_of(base, setting)
                costs = {
                    value: predict(with_value(base, setting, value), base, window, profile).total_s
                    for value in dict.fromkeys((default, *values))
                }
                # On a tie the default, which is first, is the best and not the worst.
                best, worst = min(costs, key=lambda v: costs[v]), max(costs, key=lambda v: costs[v])
                yield Row(
                    device=device, workload=workload, setting=setting,
                    default=default, default_s=costs[default],
                    best=best, best_s=costs[best], worst=worst, worst_s=costs[worst],
                )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    print_facts(facts)
    profiles = {name: profile_of(device) for name, device in NOMINAL.items()}
    if not options.quick:
        profiles["measured"] = measure_profile(LocalFileSystem(), options.dir)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        own = measure_own(Path(name))
    report = {
        "benchmark": "knobs",
        "machine": facts,
        "devices": {name: asdict(device) for name, device in NOMINAL.items()},
        "own_s_a_page": own._asdict(),
        "rows": [asdict(row) for row in rows_of(profiles, own)],
    }
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="nominal devices only")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
