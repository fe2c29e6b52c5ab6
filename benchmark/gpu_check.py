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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.publish import gpu
from benchmark.publish.reports import Report

if TYPE_CHECKING:
    from benchmark.gpu_copies import Timing
    from benchmark.gpu_path import PathTimes
    from benchmark.gpu_victims import VictimTimes

EXIT_WRONG_BYTES, EXIT_NO_GPU = 1, 3
RESULTS = Path(__file__).parent / "results"
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
    # Rounds of the interpreter are no figures.
    report = {"machine": facts} | asdict(found if found.copies else Measured())
    text = markdown(report, [times.geometry for times in found.paths])
    print(text)
    if options.output is not None:
        write(options.output, report, text)
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


def markdown(report: Report, geometries: Sequence[str]) -> str:
    """Return the report as text: the card, what was right, and the tables that the page has too."""
    facts = report["machine"]
    named = "\n".join(f"* {name}: {value}" for name, value in facts.items())
    right = (
        "Gather and scatter equalled the reference, victims lay in host memory as the host pool"
        f" would hold them, and every byte came back from the store, for: {'; '.join(geometries)}."
    )
    return "\n\n".join([f"# Page copies on {facts['card']}", named, right, gpu.body(report)])


def write(output: Path, report: Report, text: str) -> None:
    """Write the report as Markdown and, with every timed round, as JSON."""
    card = str(report["machine"]["card"])
    name = "gpu_check-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    write_json(output / f"{name}.json", report)
    (output / f"{name}.md").write_text(text)
    print(f"gpu_check: wrote {output / name}.md and .json")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    sys.exit(main())
