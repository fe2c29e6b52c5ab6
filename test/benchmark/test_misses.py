"""What misses cost is told against the host tier alone, round by round."""

from benchmark.misses import Miss, misses_table


def test_a_round_is_compared_with_the_same_round_without_the_disk_tier():
    misses = [
        Miss(
            row=row,
            prompt_tokens=1025,
            round_number=number,
            place=place,
            ttft_s=number * (1.0 if place == 0 else later_s),
            total_s=9.0,
        )
        for number in (1, 2, 3)
        for row, later_s in (("host", 1.0), ("through", 1.3))
        for place in (0, 1, 2)
    ]
    host, through = misses_table(misses).splitlines()[2:]
    assert [cell.strip() for cell in host.strip("|").split("|")][2:] == ["1.00 [1.00..1.00]"] * 3
    assert [cell.strip() for cell in through.strip("|").split("|")][2:] == [
        "1.20 [1.20..1.20]",
        "1.00 [1.00..1.00]",
        "1.30 [1.30..1.30]",
    ]
