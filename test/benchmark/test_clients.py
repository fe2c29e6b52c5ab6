"""Clients ask every prompt once, no more of them at a time than there are clients."""

import threading

from benchmark.clients import Arrival, Load, closed_loop, open_loop
from benchmark.serving import Cached, Reply


class FakeServer:
    """Answers when as many requests as expected are waiting at once."""

    def __init__(self, num_at_once: int) -> None:
        self.together = threading.Barrier(num_at_once)
        self.asked: list[tuple[int, ...]] = []

    def generate(self, *, input_ids, max_new_tokens: int) -> Reply:
        self.asked.append(tuple(input_ids))
        self.together.wait(30)
        return reply(len(input_ids), token=input_ids[0])


def reply(prompt_tokens: int, *, token: int = 0, disk: int = 0, ttft_s: float = 1.0) -> Reply:
    return Reply(
        text="",
        output_ids=(token,),
        prompt_tokens=prompt_tokens,
        cached=Cached(disk=disk),
        ttft_s=ttft_s,
        total_s=ttft_s,
    )


def test_a_closed_loop_keeps_all_clients_busy_and_the_order_of_prompts() -> None:
    prompts = [(number, 0) for number in range(6)]
    # Fewer than three at once would wait for ever.
    found = closed_loop(FakeServer(3), prompts, num_clients=3)
    assert [one.output_ids[0] for one in found.replies] == list(range(6))


def test_an_open_loop_waits_for_arrivals_and_not_for_answers() -> None:
    slept: list[float] = []
    arrivals = [Arrival(float(number), (number,)) for number in range(3)]
    # Answers come only when all three were asked.
    found = open_loop(FakeServer(3), arrivals, sleep=slept.append)
    assert [one.output_ids[0] for one in found.replies] == [0, 1, 2]
    assert 0 <= slept[0] <= slept[1] <= slept[2] <= 2.0


def test_figures_count_tokens_by_tier() -> None:
    load = Load((reply(10, disk=8, ttft_s=1.0), reply(30, ttft_s=3.0)), wall_s=2.0)
    figures = load.figures()
    assert figures["hit_rate"] == 0.2
    assert figures["disk_tokens"] == 8
    assert (figures["ttft_p50_s"], figures["ttft_p99_s"]) == (1.0, 3.0)
    assert figures["prompt_tokens_per_s"] == 20.0
