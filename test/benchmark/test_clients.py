"""Clients ask every prompt once, no more of them at a time than there are clients."""

import threading

import pytest

from benchmark.clients import Arrival, Load, closed_loop, open_loop
from benchmark.serving import Cached, Reply, ServerError


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


class SlowFirst:
    """Answers the first prompt only once the last that does not go on from it was answered."""

    def __init__(self) -> None:
        self.free_was_asked = threading.Event()
        self.ended: list[int] = []

    def generate(self, *, input_ids, max_new_tokens: int) -> Reply:
        (number,) = input_ids
        if number == 0:
            assert self.free_was_asked.wait(30)
        if number == 2:
            self.free_was_asked.set()
        self.ended.append(number)
        return reply(1, token=number)


def test_a_prompt_waits_for_the_answer_that_it_goes_on_from() -> None:
    server = SlowFirst()
    found = closed_loop(server, [[0], [1], [2]], num_clients=3, after=[None, 0, None])
    assert server.ended == [2, 0, 1]
    assert [one.output_ids[0] for one in found.replies] == [0, 1, 2]


class Failing:
    def generate(self, *, input_ids, max_new_tokens: int) -> Reply:
        raise ServerError("gone")


def test_a_failed_answer_lets_go_of_who_waits_for_it() -> None:
    with pytest.raises(ServerError, match="gone"):
        closed_loop(Failing(), [[0], [1]], num_clients=2, after=[None, 0])


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
