"""A round asks each prompt once a phase, of as many clients, and a row without a disk fewer."""

from benchmark.bench_load import _phases
from benchmark.serving import Cached, Reply
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT
from benchmark.ttft_servers import Row, RunningRow


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

    def flush_cache(self) -> None:
        self.calls.append("flush")

    def wait_backed_up(self, num_tokens: int) -> None:
        self.calls.append(f"wait {num_tokens}")


def phases(name: str, tmp_path, *, has_disk: bool) -> tuple[list[str], list[str]]:
    server = FakeServer()
    row = RunningRow(Row(name, lambda _: (), has_disk=has_disk), server, tmp_path)
    found = list(_phases(row, [[0] * 129, [1] * 129], 2, 1))
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
