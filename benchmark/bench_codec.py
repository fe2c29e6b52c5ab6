"""How much smaller does real KV become, what does that cost, and what does a get of it cost?

    scripts/bench codec --quick               one round of few pages
    scripts/bench codec --json FILE           five rounds

Pages are real KV of a real model (`benchmark.real_kv`), by type of number. The codec runs on one
thread, over pages that together are larger than the CPU's caches. Then a store holds bfloat16
pages, as they come or encoded, and reads them 32 a call: cold after the page cache was dropped, hot
with it. CPU is of the whole process.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sglang_lsm import codec, format
from sglang_lsm.config import GIB, LogConfig, StoreConfig
from sglang_lsm.pages import PageBuffer, PagePath
from sglang_lsm.store import Store
from sglang_lsm.tensorlog.io_modes import READS_BEFORE_FILLING

from benchmark import real_kv
from benchmark.harness import machine_facts, print_facts, summarize, table, write_json
from benchmark.pagedata import aligned_memory, benchmark_fingerprint, chained_hashes, split_pages

BATCH_PAGES = 32

Table = dict[str, Any]
"""`title`, `head` and `rows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecRow:
    """The codec on pages of one type, in one round."""

    kv_dtype: str
    round_number: int
    page_bytes: int
    room: float
    """Blocks after over blocks before."""
    encode_gbs: float
    decode_gbs: float
    """GB of plain pages a second, one thread."""
    encode_cpu_s: float
    decode_cpu_s: float
    """Seconds a GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetRow:
    """Gets of plain or encoded pages, in one round."""

    form: str
    cache: str
    round_number: int
    gbs: float
    """GB handed out a second."""
    cpu_s: float
    """Seconds of CPU a GB handed out."""
    disk_bytes: int
    """What the pages take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    num_rounds, num_pages = (1, 16) if options.quick else (5, 64)
    facts = machine_facts(options.dir)
    pages = real_kv.pages(num_pages)
    codec_rows, get_rows = [], []
    for number in range(num_rounds):
        codec_rows += [measure_codec(name, found, number) for name, found in pages.items()]
        with tempfile.TemporaryDirectory(dir=options.dir) as directory:
            get_rows += list(measure_gets(Path(directory), pages["bfloat16"], number))
    report = {
        "benchmark": "codec",
        "machine": facts,
        "model": real_kv.MODEL,
        "num_pages": num_pages,
        "codec": [asdict(row) for row in codec_rows],
        "gets": [asdict(row) for row in get_rows],
        "tables": tables(codec_rows, get_rows),
    }
    print_facts(facts)
    for one in report["tables"]:
        print(f"\n#### {one['title']}\n\n{table(one['head'], one['rows'])}")
    if options.json:
        write_json(options.json, report)
    return 0


def measure_room(pages: real_kv.Pages, kv_dtype: str) -> tuple[int, int]:
    """Return the blocks of a page, plain and, in the mean, encoded."""
    width = codec.element_bytes(kv_dtype)
    plain = format.padded(pages.shape[1]) // format.BLOCK_BYTES
    blocks = []
    for page in pages:
        encoded = codec.encode(memoryview(page), width)
        blocks.append(
            plain if encoded is None else format.padded(len(encoded)) // format.BLOCK_BYTES
        )
    return plain, round(sum(blocks) / len(blocks))


def measure_codec(kv_dtype: str, pages: real_kv.Pages, number: int) -> CodecRow:
    """Encode and decode pages on this thread."""
    width = codec.element_bytes(kv_dtype)
    views = [memoryview(page) for page in pages]
    encoded: list[bytes | None] = []
    encode_s, encode_cpu_s = _timed(lambda: encoded.extend(codec.encode(v, width) for v in views))
    out = memoryview(bytearray(pages.shape[1]))
    kept = [memoryview(form) for form in encoded if form is not None]
    decode_s, decode_cpu_s = _timed(lambda: [codec.decode(form, [out]) for form in kept])
    assert not kept or bytes(out) == next(
        bytes(v) for v, form in zip(reversed(views), reversed(encoded), strict=True) if form
    )
    plain = format.padded(pages.shape[1])
    blocks = [plain if form is None else format.padded(len(form)) for form in encoded]
    gb, decoded_gb = pages.nbytes / 1e9, len(kept) * pages.shape[1] / 1e9
    return CodecRow(
        kv_dtype=kv_dtype,
        round_number=number,
        page_bytes=pages.shape[1],
        room=sum(blocks) / (plain * len(blocks)),
        encode_gbs=gb / encode_s,
        decode_gbs=decoded_gb / decode_s,
        encode_cpu_s=encode_cpu_s / gb,
        decode_cpu_s=decode_cpu_s / decoded_gb if kept else 0.0,
    )


def measure_gets(directory: Path, pages: real_kv.Pages, number: int) -> Iterator[GetRow]:
    """Store pages, read them cold and hot, encode them in the store, read them again."""
    memory = aligned_memory(pages.nbytes)
    np.frombuffer(memory, np.uint8)[:] = pages.reshape(-1)
    buffers = split_pages(memory, pages.shape[1])
    config = StoreConfig(quota_bytes=16 * GIB, log=LogConfig(merge_bytes_per_s=0))
    store = Store.open(directory / "store", config)
    try:
        fingerprint = replace(benchmark_fingerprint(), model=real_kv.MODEL, kv_dtype="bfloat16")
        namespace = store.register(fingerprint)
        hashes = chained_hashes("real", len(buffers))
        paths = [
            PagePath(namespace, hashes[: start + BATCH_PAGES], start)
            for start in range(0, len(buffers), BATCH_PAGES)
        ]
        for path in paths:
            store.put_batch(path, buffers[path.start : path.start + path.num_pages])
        yield from _gets(store, paths, buffers, "plain", number)
        store.touch(PagePath(namespace, hashes))
        for i in range(2 * len(hashes)):
            # What was used lately stays plain; uses of others make these pages old.
            store.put_batch(PagePath(namespace, chained_hashes(f"{i}", 1), 0), [_small(memory)])
        while store._background.encoder.encode(pages.nbytes):
            pass
        assert store.stats().pages_encoded >= len(hashes)
        yield from _gets(store, paths, buffers, "encoded", number)
    finally:
        store.close()


def _small(memory: memoryview) -> PageBuffer:
    return [memory[:4096]]


def _gets(
    store: Store, paths: Sequence[PagePath], pages: Sequence[PageBuffer], form: str, number: int
) -> Iterator[GetRow]:
    out = split_pages(aligned_memory(sum(len(page[0]) for page in pages)), len(pages[0][0]))
    listed = store.list_subtree(PagePath(paths[0].namespace, paths[0].hashes[:1]), max_pages=10**6)
    disk_bytes = sum(format.padded(page.num_bytes) for page in listed)
    for cache in ("cold", "hot"):
        if cache == "cold":
            store.drop_cache()
        else:
            # The page cache takes what comes again and again.
            for _ in range(READS_BEFORE_FILLING + 1):
                _get_all(store, paths, out)
        seconds, cpu_s = _timed(lambda: _get_all(store, paths, out))
        assert all(mine[0] == theirs[0] for mine, theirs in zip(out, pages, strict=True))
        gb = sum(len(page[0]) for page in out) / 1e9
        yield GetRow(
            form=form, cache=cache, round_number=number, gbs=gb / seconds, cpu_s=cpu_s / gb,
            disk_bytes=disk_bytes,
        )  # fmt: skip


def _get_all(store: Store, paths: Sequence[PagePath], out: Sequence[PageBuffer]) -> None:
    for path in paths:
        part = out[path.start : path.start + path.num_pages]
        assert store.get_batch(path, part) == path.num_pages


def _timed(action: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and the seconds of CPU that an action takes."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start_s, time.process_time() - start_cpu_s


def tables(codec_rows: Sequence[CodecRow], get_rows: Sequence[GetRow]) -> list[Table]:
    """Return what is printed, a table a question; medians of the rounds with their range."""
    figures = ("room", "encode_gbs", "decode_gbs", "encode_cpu_s", "decode_cpu_s")
    types = [
        [kv_dtype, *(_median(codec_rows, {"kv_dtype": kv_dtype}, figure) for figure in figures)]
        for kv_dtype in dict.fromkeys(row.kv_dtype for row in codec_rows)
    ]
    gets = []
    for form, cache in dict.fromkeys((row.form, row.cache) for row in get_rows):
        which = {"form": form, "cache": cache}
        cells = [_median(get_rows, which, figure) for figure in ("gbs", "cpu_s", "disk_bytes")]
        gets.append([form, cache, *cells])
    return [
        {
            "title": f"{real_kv.MODEL}'s KV by type, GB of plain pages, one thread",
            "head": ["KV", "room", "encode GB/s", "decode GB/s", "encode CPU s/GB",
                     "decode CPU s/GB"],
            "rows": types,
        },
        {
            "title": f"Gets of bfloat16 pages, {BATCH_PAGES} a call, GB of plain pages",
            "head": ["pages", "page cache", "GB/s", "CPU s/GB", "bytes on disk"],
            "rows": gets,
        },
    ]  # fmt: skip


def _median(rows: Sequence[CodecRow | GetRow], which: Mapping[str, str], figure: str) -> str:
    chosen = [r for r in rows if all(getattr(r, name) == value for name, value in which.items())]
    return str(summarize(getattr(row, figure) for row in chosen) or "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of few pages")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
