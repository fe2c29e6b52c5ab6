"""The page copies on a GPU: ratios are taken inside a round, and what torch does faster is said."""

import pytest

from benchmark.publish import gpu

COPY, GATHER, SCATTER = "device-to-device copy", "gather_pages", "scatter_pages"
SELECT, PUT = "index_select per layer, reordered", "index_copy per layer"


def timing(way, device_ms, num_pages=8):
    return {
        "geometry": "GQA",
        "num_pages": num_pages,
        "num_bytes": 64_000_000,
        "way": way,
        "device_ms": {str(number): ms for number, ms in enumerate(device_ms)},
        "host_us": {"0": 9.0},
    }


@pytest.fixture
def report():
    return {
        "copies": [
            timing(COPY, [0.1, 0.2]),
            timing(GATHER, [0.125, 0.2]),
            timing(SELECT, [0.5, 0.8]),
            timing(SCATTER, [0.2, 0.4]),
            timing(PUT, [0.1, 0.2]),
        ],
        "tiles": [timing(COPY, [0.1]), timing("gather_pages, tile 2 KiB", [0.2])],
        "victims": [
            {
                "geometry": "GQA",
                "layout": "page_first",
                "num_pages": 64,
                "num_bytes": 64_000_000,
                "num_batches": 2,
                "scheduler_us": {"0": 900.0},
                "arrival_ms": {"0": 4.0},
            }
        ],
        "paths": [
            {
                "geometry": "GQA",
                "num_pages": 8,
                "num_bytes": 64_000_000,
                "seconds": {"D2H": {"0": 0.008}},
            }
        ],
    }


def rows_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_speeds_and_ratios(report):
    rows = rows_of(gpu.body(report))
    # 64 MB read and written in 0.125 and 0.2 ms, in rounds whose copy took 0.1 and 0.2.
    assert ["GQA", "8", "64.0", GATHER, "832 [640..1024]", "0.900 [0.800..1.00]", "9.00"] in rows
    assert ["GQA", "page_first", "64", "2", "900", "16.0"] in rows
    assert ["GQA", "64.0", "8.00"] in rows
    assert ["GQA", "0.500"] in rows


def test_only_what_torch_does_faster_is_lost(report):
    (loss,) = gpu.losses(report)
    assert loss.what.startswith(SCATTER) and loss.against == PUT and loss.by.startswith("0.500 ")


def test_a_run_in_the_interpreter_has_no_figures(report):
    assert "not timed" in gpu.body(report | {"copies": []})
