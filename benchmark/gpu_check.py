"""Are the page copies right on this GPU, and how near do they come to its own copy speed?

Checks gather and scatter against the reference, times them against the card's device-to-device copy
and against per-layer indexing, runs the whole path device pool -> pinned memory -> store and back,
and copies victims aside as the server does. Writes one Markdown and one JSON report under
`--output`, named after the card.

`--device cpu` checks tiny pools in Triton's interpreter and times nothing.

Exit status: 0 all right, 1 wrong bytes (nothing is written), 3 no GPU (nothing is done).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmark.harness import (
    machine_facts,
    print_facts,
    round_ratios,
    short,
    summarize,
    table,
    write_json,
)

if TYPE_CHECKING:
    from benchmark.gpu_copies import Timing
    from benchmark.gpu_path import PathTimes
    from benchmark.gpu_victims import VictimTimes

EXIT_WRONG_BYTES, EXIT_NO_GPU = 1, 3
RESULTS = Path(__file__).parent / "results"
BASE_WAY = "device-to-device copy"
COUNTS = (1, 8, 64)
"""Pages of a batch: a short victim, a typical one, and enough to leave every cache."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_check: no GPU here, nothing was run", file=sys.stderr)
        return EXIT_NO_GPU
    if options.device == "cpu":
        # Triton looks at this where a kernel is defined: before the kernels are imported.
        os.environ["TRITON_INTERPRET"] = "1"
    from benchmark.gpu_copies import WrongBytesError

    try:
        found = measure(options)
    except WrongBytesError as error:
        print(f"gpu_check: WRONG BYTES, nothing was written. {error}", file=sys.stderr)
        return EXIT_WRONG_BYTES
    facts = gpu_facts(options) | machine_facts(options.store_dir)
    print_facts(facts)
    text = markdown(facts, found)
    print(text)
    if options.output is not None:
        write(options.output, facts, text, found)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments. On a GPU the tables go to `results/`; on the CPU only where asked."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="folder for the tables")
    parser.add_argument(
        "--store-dir", type=Path, default=Path(".cache/gpu_check"), help="on the disk to measure"
    )
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.device == "cuda" and options.output is None:
        options.output = RESULTS
    return options


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found right; on a GPU also how long it took."""

    copies: "list[Timing]" = field(default_factory=list)
    tiles: "list[Timing]" = field(default_factory=list)
    paths: "list[PathTimes]" = field(default_factory=list)
    victims: "list[VictimTimes]" = field(default_factory=list)


def measure(options: argparse.Namespace) -> Measured:
    """Check, and on a GPU time, every geometry. Raises WrongBytesError at the first wrong byte."""
    from benchmark import gpu_copies, gpu_path, gpu_victims

    on_gpu, device = options.device == "cuda", torch.device(options.device)
    geometries = gpu_copies.GPU_GEOMETRIES if on_gpu else gpu_copies.TINY_GEOMETRIES
    num_pages, rounds = max(COUNTS) if on_gpu else 5, options.rounds
    found = Measured()
    for geometry in geometries:
        gpu_copies.check_copies(geometry, device, num_pages=num_pages // 2)
        if on_gpu:
            found.copies.extend(
                gpu_copies.time_copies(geometry, device, counts=COUNTS, rounds=rounds)
            )
            found.tiles.extend(
                gpu_copies.time_tiles(geometry, device, num_pages=num_pages, rounds=rounds)
            )
        found.victims.extend(gpu_victims.time_victims(geometry, device, rounds=rounds))
        options.store_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.store_dir) as directory:
            times = gpu_path.run_path(
                geometry, device, Path(directory), num_pages=num_pages, rounds=rounds
            )
            found.paths.append(times)
        print(f"gpu_check: right. {geometry.name}")
    return found


def gpu_facts(options: argparse.Namespace) -> dict[str, object]:
    """Return what a reader must know about the card and its software."""
    facts: dict[str, object] = {"triton": _version("triton"), "rounds": options.rounds}
    if options.device == "cpu":
        return {"card": "no card (Triton's interpreter on the CPU)"} | facts
    card = torch.cuda.get_device_properties(0)
    driver = subprocess.run(
        ["nvidia-smi", "--id=0", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "card": card.name,
        "card_memory_gib": round(card.total_memory / 2**30, 1),
        "driver": driver.stdout.strip() or "unknown",
        "cuda": torch.version.cuda,
    } | facts


def markdown(facts: Mapping[str, object], found: Measured) -> str:
    """Return the report: what was right, how fast the copies are, how long the path takes."""
    named = "\n".join(f"* {name}: {value}" for name, value in facts.items())
    parts = [f"# Page copies on {facts['card']}", named]
    parts.append(
        "Gather and scatter equalled the reference, victims lay in host memory as the host pool"
        " would hold them, and every byte came back from the store, for: "
        + "; ".join(times.geometry for times in found.paths)
        + "."
    )
    if not found.copies:
        return "\n\n".join([*parts, "No times: the interpreter says nothing about speed.\n"])
    parts += [COPIES_LEGEND, table(COPIES_HEAD, copy_rows(found.copies))]
    parts += [VICTIMS_LEGEND, table(VICTIMS_HEAD, victim_rows(found.victims))]
    parts += [PATH_LEGEND, table(PATH_HEAD, path_rows(found.paths))]
    parts += [TILES_LEGEND, table(COPIES_HEAD, copy_rows(found.tiles))]
    return "\n\n".join(parts) + "\n"


COPIES_LEGEND = (
    "Median [min..max] of the rounds. GB/s counts every byte twice, read and written, as the copy"
    " of the same bytes does that `of copy` divides by, round by round. `host us` is what the"
    " launching thread pays."
)
COPIES_HEAD = ("geometry", "pages", "MB", "way", "ms", "GB/s", "of copy", "host us")
PATH_LEGEND = (
    "The stages of the whole path, one after the other; GB/s counts every byte once. The page cache"
    " is dropped before get_batch."
)
TILES_LEGEND = (
    "The kernels with tiles of other sizes: what one program copies. `TILE_BYTES` is the default."
)
VICTIMS_LEGEND = (
    "A victim of the device copied aside before its slots are reused, as the server does it:"
    " `scheduler us` is what the scheduler thread pays for all of it, `ms` and GB/s run from its"
    " first call until all pages lie in pinned memory."
)
VICTIMS_HEAD = ("geometry", "layout", "pages", "MB", "batches", "scheduler us", "ms", "GB/s")
PATH_HEAD = ("geometry", "pages", "MB", "stage", "ms", "GB/s")


def copy_rows(timings: "Sequence[Timing]") -> list[list[str]]:
    """Return a row for each way to copy each batch."""
    bases = {
        (timing.geometry, timing.num_pages): timing.device_ms
        for timing in timings
        if timing.way == BASE_WAY
    }
    rows = []
    for timing in timings:
        # Speed over the copy's speed is the copy's time over this one's.
        of_copy = round_ratios(bases[timing.geometry, timing.num_pages], timing.device_ms)
        speeds = summarize(2 * timing.num_bytes / ms / 1e6 for ms in timing.device_ms.values())
        rows.append(
            [
                *(timing.geometry, str(timing.num_pages), short(timing.num_bytes / 1e6)),
                timing.way,
                *map(str, (summarize(timing.device_ms.values()), speeds, of_copy)),
                str(summarize(timing.host_us.values())),
            ]
        )
    return rows


def victim_rows(victims: "Sequence[VictimTimes]") -> list[list[str]]:
    """Return a row for each layout of each geometry."""
    rows = []
    for times in victims:
        speeds = summarize(times.num_bytes / ms / 1e6 for ms in times.arrival_ms.values())
        figures = summarize(times.scheduler_us.values()), summarize(times.arrival_ms.values())
        size = str(times.num_pages), short(times.num_bytes / 1e6), str(times.num_batches)
        rows.append([times.geometry, times.layout, *size, *map(str, (*figures, speeds))])
    return rows


def path_rows(paths: "Sequence[PathTimes]") -> list[list[str]]:
    """Return a row for each stage of each geometry."""
    return [
        [
            *(times.geometry, str(times.num_pages), short(times.num_bytes / 1e6)),
            stage,
            str(summarize(seconds * 1e3 for seconds in by_round.values())),
            str(summarize(times.num_bytes / seconds / 1e9 for seconds in by_round.values())),
        ]
        for times in paths
        for stage, by_round in times.seconds.items()
    ]


def write(output: Path, facts: Mapping[str, object], text: str, found: Measured) -> None:
    """Write the report as Markdown and, with every timed round, as JSON."""
    name = "gpu_check-" + re.sub(r"[^a-z0-9]+", "-", str(facts["card"]).lower()).strip("-")
    # Rounds of the interpreter are no figures.
    rounds = asdict(found if found.copies else Measured())
    write_json(output / f"{name}.json", {"machine": facts} | rounds)
    (output / f"{name}.md").write_text(text)
    print(f"gpu_check: wrote {output / name}.md and .json")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    sys.exit(main())
