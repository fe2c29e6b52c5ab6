"""The table of the paper counts tokens over all requests and compares stage by stage."""

from benchmark.publish.paper import body, losses, plots


def row(name: str, stage: int, *, disk: int, ttft: float) -> dict:
    return {
        "row": name,
        "prompt_tokens": 1024,
        "stage": stage,
        "target": 0.5,
        "offered": 0.5,
        "asked_tokens": 1000,
        "device_tokens": 0,
        "host_tokens": 0,
        "disk_tokens": disk,
        "hit_rate": disk / 1000,
        "ttft_mean_s": ttft,
        "ttft_p99_s": ttft,
        "ttft_s": [ttft],
        "first_tokens": [7],
        "cpu_s": 2.0,
        "disk_bytes": 3 << 20,
        "budget_bytes": 4 << 20,
        "disk_files": 5,
    }


def report() -> dict:
    names = ["file, page 1", "lsm, page 64"]
    rows = [
        row("lsm, page 64", 0, disk=400, ttft=1.0),
        row("file, page 1", 0, disk=100, ttft=2.0),
        row("file, page 1", 1, disk=300, ttft=0.5),
        row("lsm, page 64", 1, disk=200, ttft=1.0),
    ]
    return {"settings": {"rows": names}, "rows": rows}


def test_both_ratios_stand_beside_the_papers() -> None:
    told = body(report())
    assert "+143 %" in told
    assert "+50%" in told  # 600 tokens over 400
    assert "+300%" in told  # the better stage, 400 over 100
    assert "-20%" in told  # 1.0 s over 1.25 s
    assert "2 of 2" in told
    assert "3 of 4" in told  # MiB
    assert "0/0/600" in told


def test_a_stage_that_another_row_wins_is_a_loss() -> None:
    assert [(loss.against, loss.what.split(": ")[1]) for loss in losses(report())] == [
        ("file, page 1", "hit rate"),
        ("file, page 1", "TTFT"),
    ]
    assert all("stage 2" in loss.by for loss in losses(report()))


def test_a_picture_a_length(tmp_path) -> None:
    (path,) = plots(report(), tmp_path / "paper")
    assert path.name == "paper-1024.png"
    assert path.stat().st_size < 150_000
