import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_lsm.kernels.reference import gather_pages_reference

from benchmark import gpu_check, gpu_copies, gpu_path, gpu_victims
from benchmark.gpu_copies import TINY_GEOMETRIES, Timing, WrongBytesError
from benchmark.gpu_path import STAGES, PathTimes
from benchmark.gpu_victims import VictimTimes
from benchmark.harness import summarize
from benchmark.publish import gpu

ROOT = Path(__file__).resolve().parents[2]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be run on")


def files(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


@needs_no_gpu
@pytest.mark.parametrize(
    "command", [["scripts/gpu_check"], [sys.executable, "-m", "benchmark.gpu_check"]]
)
def test_without_a_gpu_it_says_so_in_one_line_and_changes_nothing(command: list[str]) -> None:
    before = files(ROOT / "benchmark" / "results")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert (done.stdout, done.stderr) == ("", "gpu_check: no GPU here, nothing was run\n")
    assert files(ROOT / "benchmark" / "results") == before


def test_on_the_cpu_everything_but_the_clock_is_run(tmp_path: Path) -> None:
    """Kernels, store and report, from one command, in a process of its own."""
    results, store_dir = tmp_path / "results", tmp_path / "store"
    arguments = ["--device", "cpu", "--rounds", "2", "--output", results, "--store-dir", store_dir]
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.gpu_check", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (json_file,), (markdown_file,) = results.glob("*.json"), results.glob("*.md")
    text = markdown_file.read_text()
    assert all(geometry.name in text for geometry in TINY_GEOMETRIES)
    assert "not timed" in text and "GB/s" not in text
    report = json.loads(json_file.read_text())
    assert report["copies"] == report["paths"] == report["victims"] == []
    assert {"card", "triton", "torch", "commit"} <= report["machine"].keys()
    assert not list(store_dir.iterdir())


def test_figures_of_the_cpu_never_land_among_the_results() -> None:
    assert gpu_check.parse(["--device", "cpu"]).output is None
    assert gpu_check.parse([]).output == gpu_check.RESULTS


def test_wrong_bytes_are_a_failure_and_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise WrongBytesError("gather of 1 pages")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(gpu_copies, "check_copies", fail)
    arguments = ["--device", "cpu", "--output", str(tmp_path / "results")]
    assert gpu_check.main([*arguments, "--store-dir", str(tmp_path)]) == 1
    assert "WRONG BYTES" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kernel", ["gather_pages", "scatter_pages"])
def test_check_notices_one_wrong_bit(
    kernel: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_copies.check_copies(TINY_GEOMETRIES[0], device, num_pages=2)
    right = getattr(gpu_copies, kernel)

    def wrong(pool, page_ids, staging) -> None:
        right(pool, page_ids, staging)
        if len(page_ids):
            changed = staging[-1] if kernel == "gather_pages" else pool.buffers[-1][-1]
            changed[-1] ^= 1

    monkeypatch.setattr(gpu_copies, kernel, wrong)
    with pytest.raises(WrongBytesError, match=kernel.removesuffix("_pages")):
        gpu_copies.check_copies(TINY_GEOMETRIES[0], device, num_pages=2)


def test_path_notices_a_page_that_was_not_scattered(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gpu_path.scatter_pages
    monkeypatch.setattr(
        gpu_path, "scatter_pages", lambda pool, ids, pages: right(pool, ids[1:], pages[1:])
    )
    with pytest.raises(WrongBytesError, match="from the pool"):
        gpu_path.run_path(TINY_GEOMETRIES[0], device, tmp_path, num_pages=2, rounds=1)


@pytest.mark.parametrize("geometry", TINY_GEOMETRIES, ids=lambda geometry: geometry.name)
def test_the_rivals_do_the_same_work(geometry: gpu_copies.Geometry, device: torch.device) -> None:
    pool = geometry.make_pool(4, device, seed=0)
    ids = gpu_copies.some_pages(pool, 3, seed=0)
    expected = gpu_copies.poisoned(3, pool)
    gather_pages_reference(pool, ids, expected)
    ways = gpu_copies.ways_to_copy(pool, ids)

    assert torch.equal(ways["index_select per layer, reordered"](), expected)
    ways["gather_pages"]()
    for way in ("index_copy per layer", "scatter_pages"):
        for buffer in pool.buffers:
            buffer.fill_(gpu_copies.POISON)
        ways[way]()
        back = gpu_copies.poisoned(3, pool)
        gather_pages_reference(pool, ids, back)
        assert torch.equal(back, expected), way


def test_every_way_is_timed_in_every_round_and_compared_with_the_copy(
    device: torch.device,
) -> None:
    ticks = itertools.count(1)

    def timer(call, repeats: int) -> tuple[float, float]:
        call()
        return float(next(ticks)), 1.0

    timings = list(
        gpu_copies.time_copies(TINY_GEOMETRIES[0], device, counts=(1, 2), rounds=2, timer=timer)
    )
    assert {timing.num_pages for timing in timings} == {1, 2}
    assert all(timing.device_ms.keys() == timing.host_us.keys() == {0, 1} for timing in timings)
    assert len(timings) == 12


def test_the_text_says_the_card_what_was_right_and_what_the_page_shows() -> None:
    copy = Timing("GQA", 8, 64_000_000, "device-to-device copy", {0: 0.1, 1: 0.1}, {0: 5.0})
    gather = Timing("GQA", 8, 64_000_000, "gather_pages", {0: 0.125, 1: 0.1}, {0: 9.0})
    seconds = {stage: {0: 0.008} for stage in STAGES}
    found = gpu_check.Measured(
        copies=[copy, gather],
        tiles=[copy, gather],
        paths=[PathTimes("GQA", 8, 64_000_000, seconds)],
        victims=[VictimTimes("GQA", "page_first", 8, 64_000_000, 2, {0: 90.0}, {0: 4.0})],
    )
    report = {"machine": {"card": "Card 9", "driver": "1.2"}} | asdict(found)
    text = gpu_check.markdown(report, ["GQA"])
    assert "# Page copies on Card 9" in text
    assert "* driver: 1.2" in text
    assert "from the store, for: GQA." in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    # 64 MB read and 64 MB written take 0.125 and 0.1 ms, the copy of them 0.1 ms in both rounds.
    figures = ([1024, 1280], [0.8, 1.0], [9.0])
    assert ["GQA", "8", "64.0", "gather_pages", *map(str, map(summarize, figures))] in rows
    # What a file gives back, whose numbers of rounds are text, makes the same tables.
    assert gpu.body(json.loads(json.dumps(report))) in text


def test_every_tile_is_timed_beside_the_copy(device: torch.device) -> None:
    def timer(call, repeats: int) -> tuple[float, float]:
        call()
        return 2.0, 1.0

    timings = list(
        gpu_copies.time_tiles(TINY_GEOMETRIES[0], device, num_pages=2, rounds=2, timer=timer)
    )
    assert {timing.way.split(",")[0] for timing in timings} == {
        "device-to-device copy",
        "gather_pages",
        "scatter_pages",
    }
    assert len(timings) == 1 + 2 * len(gpu_copies.TILE_SIZES)


def test_victims_copied_wrong_are_noticed(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(pool: PagedPool, ids: torch.Tensor, out: torch.Tensor) -> None:
        gather_pages_reference(pool, ids, out)
        out[-1, -1] ^= 1

    times = list(gpu_victims.time_victims(TINY_GEOMETRIES[1], device, rounds=1))
    assert [one.layout for one in times] == ["page_first", "page_first_direct"]
    name = "sglang_lsm.kernels.gather_pages.gather_pages"
    if device.type == "cpu":
        name = "sglang_lsm_patch.device_pages.gather_pages_reference"
    monkeypatch.setattr(name, wrong)
    with pytest.raises(WrongBytesError, match="victims"):
        list(gpu_victims.time_victims(TINY_GEOMETRIES[1], device, rounds=1))


def test_results_are_named_after_the_card(tmp_path: Path) -> None:
    gpu_check.write(tmp_path, {"machine": {"card": "NVIDIA H100 80GB HBM3"}}, "# Title\n")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gpu_check-nvidia-h100-80gb-hbm3.json", "gpu_check-nvidia-h100-80gb-hbm3.md"]
