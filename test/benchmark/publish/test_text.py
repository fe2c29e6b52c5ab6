"""Each stretch is a row a server; who answers sooner than ours is a loss, the bound is none."""

from benchmark.publish.text import body, losses


def run(row: str, ttft_s: float, *, stretch: int = 1, answer: int = 1) -> dict:
    times = dict.fromkeys(("ttft_p50_s", "ttft_p90_s", "ttft_p99_s"), ttft_s)
    return {
        "row": row,
        "workload": "RAG",
        "stretch": stretch,
        "clients": 4 * stretch or 1,
        "num_requests": 2,
        "asked_tokens": 1000,
        "offered_tokens": 700,
        "device_tokens": 10,
        "host_tokens": 20,
        "disk_tokens": 640,
        "prompt_tokens_per_s": 100.0,
        "cpu_s": 2.0,
        "cpu_so_far_s": 7.0 * (1 + stretch),
        "disk_bytes": 64 << 20,
        "output_ids": [[answer], [7]],
        **times,
    }


REPORT = {
    "settings": {"draws": 12},
    "shares": [
        {
            "workload": "RAG",
            "whole": "lines",
            "asked": 1000,
            "seen": 850,
            "shared": 450,
            "whole_pages": 420,
        }
    ],
    "runs": [
        run("recompute", 2.0, stretch=0),
        run("lsm, evict", 3.0, stretch=0),
        # In turns: the order of rows is that of the first stretch.
        run("lsm, evict", 1.0, answer=2),
        run("sim", 0.1, answer=3),
        run("recompute", 2.0),
    ],
    "left_out": {"file": "said elsewhere"},
}


def test_sooner_answers_are_losses_stretch_by_stretch_and_the_bound_is_none() -> None:
    found = losses(REPORT)
    assert {loss.against for loss in found} == {"recompute"}
    assert len(found) == 3
    assert all(loss.what.startswith("RAG, 1 client, 2 requests, empty store") for loss in found)
    assert found[0].by == "3.00, theirs 2.00"


def test_the_page_tells_shares_tiers_answers_and_totals() -> None:
    told = body(REPORT)
    assert "| RAG      | whole lines | 1000         | 85.0% " in told
    assert "1.0%/2.0%/64.0%" in told
    assert "#### RAG" in told
    assert "70.0%" in told
    (ours,) = [line for line in told.splitlines() if "4 clients" in line and "lsm, evict" in line]
    assert "1 of 2" in ours
    (bound,) = [line for line in told.splitlines() if "| sim " in line and "4 clients" in line]
    assert "loads no bytes" in bound
    (in_all,) = [line for line in told.splitlines() if line.startswith("| lsm, evict")]
    assert [cell.strip() for cell in in_all.split("|")[2:5]] == ["4.00", "14.0", "64"]
    assert "Left out: file: said elsewhere." in told
    rows = [line for line in told.splitlines() if "4 clients" in line]
    assert "recompute" in rows[0]
