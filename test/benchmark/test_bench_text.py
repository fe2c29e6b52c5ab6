"""A stretch is asked of every row in turn, and goes on from the one before it."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmark import bench_text
from benchmark.bench_text import (
    ASKED,
    FULL,
    QUICK,
    WORKLOADS,
    measure,
    pool_tokens,
    shares_of,
    stretches_of,
)
from benchmark.serving import Cached, Reply
from benchmark.text_workloads import MULTI_TURN, RAG, Request, Texts
from benchmark.ttft_servers import PAGE_SIZE, RunningRow


def lines(number: int) -> list[tuple[int, ...]]:
    return [tuple(range(at, at + 12)) for at in range(number * 10**6, number * 10**6 + 9600, 12)]


TEXTS = Texts([lines(number) for number in range(1, 10)], lambda text: tuple(text.encode()))


@pytest.mark.parametrize("plan", [FULL, QUICK])
@pytest.mark.parametrize("name", WORKLOADS)
def test_stretches_are_the_workload_in_order_and_fit_the_window(plan, name) -> None:
    stretches = list(stretches_of(name, TEXTS, plan))
    assert [one.clients for one in stretches] == [1, *(clients for clients, _ in plan.stretches)]
    assert sum(len(one.requests) for one in stretches) == plan.num_requests(name)
    for stretch in stretches:
        assert len(stretch.requests) >= stretch.clients
        # The first requests share little, and those after them something.
        assert (stretch.offered_tokens > 0) or not stretch.number
        for index, one in enumerate(stretch.requests):
            assert one.after is None or 0 <= one.after < index
            assert PAGE_SIZE < len(one.prompt) < 8192
    longest = max(len(one.prompt) for stretch in stretches for one in stretch.requests)
    assert longest + 2 * PAGE_SIZE < pool_tokens(stretches) < 2 * longest


def test_turns_of_one_stretch_wait_for_each_other() -> None:
    *_, last = stretches_of(MULTI_TURN, TEXTS, FULL)
    waiting = [one for one in last.requests if one.after is not None]
    assert len(waiting) == len(last.requests) - FULL.shape.num_conversations
    assert all(one.parts[:-1] == last.requests[one.after].parts for one in waiting)


def test_shares_are_told_of_every_order_and_cut() -> None:
    found = shares_of(TEXTS, QUICK)
    assert [one["workload"] for one in found] == [
        *(w for w in WORKLOADS[:2] for _ in range(2)),
        *WORKLOADS[2:],
    ]
    for one in found:
        assert one["asked"] >= one["shared"] >= one["whole_pages"] > 0


class FakeServer:
    """Answers with what it was asked last."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def generate(self, *, input_ids, max_new_tokens: int) -> Reply:
        self.asked.append(len(input_ids))
        return Reply(
            text="",
            output_ids=(input_ids[-1],),
            prompt_tokens=len(input_ids),
            cached=Cached(disk=64),
            ttft_s=0.5,
            total_s=0.5,
        )

    def cpu_s(self) -> float:
        return float(len(self.asked))


def test_rows_take_turns_in_an_order_that_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_rows(model, directory, *, rows, pool_tokens, stack: ExitStack, progress):
        for row in rows:
            (directory / row.name).mkdir()
        return [RunningRow(row, FakeServer(), directory / row.name) for row in rows]

    monkeypatch.setattr(bench_text, "start_rows", start_rows)
    monkeypatch.setattr(bench_text, "HOME", tmp_path / "home")
    stretches = [
        bench_text.Stretch(
            RAG, number, 1 + number, tuple(Request(((token,) * 200,)) for token in (1, 2)), 0
        )
        for number in range(2)
    ]
    found = list(measure(tmp_path, ("recompute", "lsm, evict"), stretches))
    assert [(one["stretch"], one["row"]) for one in found] == [
        (0, "recompute"),
        (0, "lsm, evict"),
        (1, "lsm, evict"),
        (1, "recompute"),
    ]
    # The first request is the warm-up's.
    assert [(one["cpu_s"], one["cpu_so_far_s"]) for one in found[:3:2]] == [(2, 2), (2, 4)]
    assert all(one["output_ids"] == [(1,), (2,)] for one in found)
    assert all(one["disk_tokens"] == 128 for one in found)
    assert not (tmp_path / "home").exists()
    json.dumps(found)


def test_the_rows_and_workloads_that_are_asked_exist() -> None:
    assert set(bench_text.QUICK_ROWS) <= set(bench_text.ROWS) <= set(bench_text.BACKENDS)
    assert set(ASKED) < set(WORKLOADS)
