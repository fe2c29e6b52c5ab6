"""What the tables say follows from the samples, round by round."""

from benchmark.ttft_report import (
    COLD,
    DEVICE,
    DISK_COLD,
    Sample,
    bounds_table,
    load_by_round,
    load_table,
    summary_table,
)


def sample(row: str, phase: str, ttft_s: float, number: int) -> Sample:
    return Sample(
        row=row,
        phase=phase,
        prompt_tokens=1025,
        ttft_s=ttft_s,
        device_tokens=0,
        host_tokens=0,
        disk_tokens=1024,
        output_ids=(1,),
    ).in_round("m", number)


SAMPLES = [
    sample(row, phase, base * number, number)
    for number in (1, 2, 3)
    for row, phase, base in (
        ("recompute", COLD, 10.0),
        ("file", DEVICE, 1.0),
        ("file", DISK_COLD, 3.0),
        ("lsm", DEVICE, 1.0),
        ("lsm", DISK_COLD, 2.0),
    )
]


def test_load_time_is_disk_minus_device_of_the_same_round() -> None:
    assert load_by_round(SAMPLES, "file", DISK_COLD) == {1: 2.0, 2: 4.0, 3: 6.0}
    assert "0.500 [0.500..0.500]" in load_table(SAMPLES)


def test_what_was_not_measured_is_a_dash() -> None:
    (line,) = summary_table(SAMPLES).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["m, 1025", "20.00", "-", "6.00", "4.00", "-", "-", "2.00", "0.50", "-"]


def test_a_miss_is_compared_with_the_same_round_without_the_tier() -> None:
    cold = [
        sample(row, COLD, base * number, number)
        for number in (1, 2, 3)
        for row, base in (("host", 10.0), ("lsm", 10.2))
    ]
    miss, host, sim = bounds_table([*SAMPLES, *cold]).splitlines()[2:]
    assert "1.02 [1.02..1.02]" in miss
    assert "| -" in host and "| -" in sim
