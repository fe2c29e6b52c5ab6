"""Load time compares the same prompt of the same round; a row that loads slower is a loss."""

from benchmark.publish.load import body, load_times, losses, plots
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD


def sample(row: str, phase: str, ttft_s: float, *, prompt: int = 0, token: int = 7) -> dict:
    return {
        "row": row,
        "phase": phase,
        "clients": 4,
        "round_number": 1,
        "prompt": prompt,
        "ttft_s": ttft_s,
        "disk_tokens": 1024 if phase == DISK_COLD else 0,
        "device_tokens": 1024 if phase == DEVICE else 0,
        "host_tokens": 0,
        "output_ids": [token],
    }


def report(*samples: dict) -> dict:
    rates = [
        {
            "row": one["row"],
            "phase": one["phase"],
            "clients": 4,
            "round_number": 1,
            "prompt_tokens_per_s": 1000.0,
            "cpu_s": 1.5,
        }
        for one in samples
    ]
    totals = [{"row": "lsm", "disk_bytes": 7 << 20, "scheduler_ms": {"p50": 0.25}}]
    return {
        "settings": {"prompt_tokens": 1025},
        "samples": list(samples),
        "rates": rates,
        "totals": totals,
    }


def test_load_time_is_paired_by_prompt() -> None:
    found = report(
        sample("lsm", DEVICE, 1.0, prompt=0),
        sample("lsm", DEVICE, 5.0, prompt=1),
        sample("lsm", DISK_COLD, 6.0, prompt=1),
        sample("lsm", DISK_COLD, 3.0, prompt=0),
    )
    assert sorted(load_times(found, "lsm", DISK_COLD, 4)) == [1.0, 2.0]


def test_a_slower_load_and_a_faster_recompute_are_losses(tmp_path) -> None:
    found = report(
        sample("recompute", COLD, 2.5),
        sample("file", DEVICE, 1.0),
        sample("file", DISK_COLD, 2.0),
        sample("lsm", DEVICE, 1.0),
        sample("lsm", DISK_COLD, 3.0, token=8),
    )
    assert {(loss.against, loss.by) for loss in losses(found)} == {
        ("file", "2.00x of theirs"),
        ("recompute", "3.00 s, 2.50 s"),
    }
    told = body(found)
    assert "differ from the first row's: 1 of 4" in told
    assert "lsm: disk hit, cold page cache" in told
    (path,) = plots(found, tmp_path / "load")
    assert path.stat().st_size < 150_000


def test_the_bound_answers_wrongly_and_is_not_compared() -> None:
    found = report(
        sample("recompute", COLD, 2.5),
        sample("sim", DISK_COLD, 0.5, token=9),
    )
    told = body(found)
    assert "differ from the first row's: 0 of 0" in told
    assert "`sim`" in told


def test_disk_and_scheduler_time_are_told() -> None:
    told = body(report(sample("lsm", DEVICE, 1.0)))
    assert "| lsm | -          | 7 " in told
    assert "p50 0.250" in told
