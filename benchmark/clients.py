"""Many clients at once against one server: closed loop, or by the arrival times of a trace."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

from benchmark.harness import percentile
from benchmark.serving import Cached, Reply, Server

MAX_IN_FLIGHT = 64
"""Of an open loop. A server that falls further behind is overloaded, and arrivals then wait."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of requests found, in the order of the prompts."""

    replies: tuple[Reply, ...]
    wall_s: float

    @property
    def ttft_s(self) -> list[float]:
        """Seconds to the first token, of each request."""
        return [reply.ttft_s for reply in self.replies]

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return sum(reply.prompt_tokens for reply in self.replies)

    @property
    def cached(self) -> Cached:
        """Prompt tokens served by each tier, all requests together."""
        return Cached(
            device=sum(reply.cached.device for reply in self.replies),
            host=sum(reply.cached.host for reply in self.replies),
            disk=sum(reply.cached.disk for reply in self.replies),
        )

    def figures(self) -> dict[str, float]:
        """Return rates, tails and tiers as plain numbers."""
        cached = self.cached
        return {
            "num_requests": len(self.replies),
            "requests_per_s": len(self.replies) / self.wall_s,
            "prompt_tokens_per_s": self.prompt_tokens / self.wall_s,
            "ttft_p50_s": percentile(self.ttft_s, 0.5),
            "ttft_p90_s": percentile(self.ttft_s, 0.9),
            "ttft_p99_s": percentile(self.ttft_s, 0.99),
            "ttft_mean_s": sum(self.ttft_s) / max(1, len(self.ttft_s)),
            "asked_tokens": self.prompt_tokens,
            "device_tokens": cached.device,
            "host_tokens": cached.host,
            "disk_tokens": cached.disk,
            "hit_rate": cached.total / max(1, self.prompt_tokens),
        }


class Arrival(NamedTuple):
    """One request of an open loop."""

    at_s: float
    """After the start of the run."""
    prompt: Sequence[int]


def closed_loop(
    server: Server,
    prompts: Sequence[Sequence[int]],
    *,
    num_clients: int,
    max_new_tokens: int = 1,
    after: Sequence[int | None] = (),
) -> Load:
    """Ask all prompts in order; each of the clients asks its next as soon as it was answered.

    Args:
        server: what is asked.
        prompts: tokens.
        num_clients: as many requests are under way at most.
        max_new_tokens: of each answer.
        after: for each prompt the index of an earlier one that it goes on from, or None. Its client
            first waits for that one's answer, which is no part of the time to its first token.

    Raises:
        ServerError: the server is gone or answered with an error.
    """
    answered = [Event() for _ in prompts]

    def ask(index: int) -> Reply:
        # Begun before this one, so it comes to an end.
        if after and (earlier := after[index]) is not None:
            answered[earlier].wait()
        try:
            return server.generate(input_ids=prompts[index], max_new_tokens=max_new_tokens)
        finally:
            answered[index].set()

    start_s = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as clients:
        replies = tuple(clients.map(ask, range(len(prompts))))
    return Load(replies, time.perf_counter() - start_s)


def open_loop(
    server: Server,
    arrivals: Sequence[Arrival],
    *,
    max_new_tokens: int = 1,
    sleep: Callable[[float], None] = time.sleep,
) -> Load:
    """Ask each prompt when its time has come, whether or not the ones before were answered.

    Raises:
        ServerError: the server is gone or answered with an error.
    """
    start_s = time.perf_counter()
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as clients:
        waiting = []
        for arrival in arrivals:
            sleep(max(0.0, start_s + arrival.at_s - time.perf_counter()))
            waiting.append(
                clients.submit(
                    server.generate, input_ids=arrival.prompt, max_new_tokens=max_new_tokens
                )
            )
        replies = tuple(job.result() for job in waiting)
    return Load(replies, time.perf_counter() - start_s)
