"""A round asks each prompt once a phase, of as many clients, and a row without a disk fewer."""

import pytest

from benchmark.bench_load import FULL, LONG, LONGEST, QUICK, _in_turn, _phases
from benchmark.publish.load import RESTART
from benchmark.serving import Cached, Reply
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT, HOST_HIT
from benchmark.ttft_servers import PAGE_SIZE, Row, RunningRow


class FakeServer:
    """Answers at once, and notes what was asked of it in which order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def generate(self, *, input_ids, max_new_tokens: int) -> Reply:
        self.calls.append("ask")
        return Reply(
            text="",
            output_ids=(1,),
            prompt_tokens=len(input_ids),
            cached=Cached(),
            ttft_s=0.5,
            total_s=0.5,
        )

    def cpu_s(self) -> float:
        return 0.0

    def flush_cache(self) -> None:
        self.calls.append("flush")

    def wait_backed_up(self, num_tokens: int) -> None:
        self.calls.append(f"wait {num_tokens}")


def phases(
    name: str, tmp_path, *, has_disk: bool, batch: tuple[int, ...] = (2,), first: str = COLD
) -> tuple[list[str], list[str]]:
    server = FakeServer()
    row = RunningRow(Row(name, lambda _: (), has_disk=has_disk), server, tmp_path)
    found = list(_phases(row, [[0] * 129, [1] * 129], [[2] * 129] * 3, batch, 1, first))
    assert all(len(samples) == 2 for samples, _ in found)
    assert all(rate.prompt_tokens_per_s > 0 for _, rate in found)
    return [rate.phase for _, rate in found], server.calls


def test_a_row_with_a_disk_is_asked_in_every_phase(tmp_path) -> None:
    names, calls = phases("lsm", tmp_path, has_disk=True)
    assert names == [COLD, DEVICE, DISK_COLD, DISK_HOT]
    # Only what is on disk may be flushed: two prompts of two whole pages.
    assert calls[:6] == ["ask", "ask", "ask", "ask", "wait 256", "flush"]


def test_recomputing_has_one_phase(tmp_path) -> None:
    assert phases("recompute", tmp_path, has_disk=False) == ([COLD], ["ask", "ask"])


def test_the_host_row_is_asked_again_once_others_have_taken_its_place(tmp_path) -> None:
    names, calls = phases("host", tmp_path, has_disk=False)
    assert names == [COLD, DEVICE, HOST_HIT]
    assert calls.count("ask") == 2 + 2 + 3 + 2


def test_what_was_computed_once_is_asked_for_by_every_number_of_clients(tmp_path) -> None:
    names, calls = phases("lsm", tmp_path, has_disk=True, batch=(1, 8))
    assert names == [COLD, DEVICE, DEVICE, *(DISK_COLD, DISK_HOT) * 2]
    assert calls.count("ask") == 2 * len(names)
    # Nothing more is written after the first time: the disk is to have two prompts of two pages.
    assert {call for call in calls if call.startswith("wait")} == {"wait 256"}


def test_after_a_restart_the_prompts_are_on_disk_already(tmp_path) -> None:
    names, calls = phases("lsm", tmp_path, has_disk=True, batch=(1, 8), first=RESTART)
    assert names == [RESTART, DEVICE, DEVICE, *(DISK_COLD, DISK_HOT) * 2]
    assert {call for call in calls if call.startswith("wait")} == {"wait 0"}


def test_no_row_is_first_in_every_round() -> None:
    rows = [Row(name, lambda _: ()) for name in ("file", "lsm")]
    assert [_in_turn(rows, number)[0].name for number in (1, 2)] == ["lsm", "file"]


@pytest.mark.parametrize("plan", [FULL, LONG, LONGEST, QUICK])
def test_every_number_of_clients_is_asked_of_enough_prompts(plan) -> None:
    assert plan.num_prompts >= max(plan.clients)
    assert plan.prompt_tokens % PAGE_SIZE == 1
