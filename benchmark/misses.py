"""What does the disk tier cost requests that it cannot help?

Servers side by side, the host tier alone and the disk tier under each write policy, are asked new
prompts, which share no page with any other. In each round each server in turn is asked a few, one
right after the other: all but the first meet what the one before left to write. The order turns
round from round to round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.harness import Summary, round_ratios, summarize, table
from benchmark.prompts import Prompts
from benchmark.ttft_servers import HOST, ROWS, Row, RunningRow, lsm_flags

PROMPTS_A_ROUND = 3
POLICIES = ("evict", "through")
MISS_ROWS = (
    next(row for row in ROWS if row.name == HOST),
    *(Row(policy, lsm_flags(policy), has_disk=True) for policy in POLICIES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """One request."""

    row: str
    prompt_tokens: int
    round_number: int
    place: int
    """Requests before it in the round, at the same server."""
    ttft_s: float
    total_s: float


def ask_misses(
    rows: Sequence[RunningRow],
    prompts: Prompts,
    *,
    lengths: Sequence[int],
    rounds: int,
    progress: Callable[[str], None],
) -> list[Miss]:
    """Ask all rounds of the servers of `MISS_ROWS`; one more comes first and is thrown away.

    Raises:
        ServerError: one died.
    """
    found: list[Miss] = []
    for number in range(rounds + 1):
        for length in lengths:
            progress(f"round {number} of {rounds}, {length} tokens")
            asked = [prompts.next(length) for _ in range(PROMPTS_A_ROUND)]
            for row in rows if number % 2 else rows[::-1]:
                misses = _ask(row, asked, number)
                found += misses if number else []
    return found


def _ask(row: RunningRow, prompts: Sequence[Sequence[int]], number: int) -> list[Miss]:
    misses = []
    for place, prompt in enumerate(prompts):
        reply = row.server.generate(input_ids=prompt, max_new_tokens=4)
        if reply.cached.total:
            raise ValueError(f"a new prompt was a hit. row={row.row.name} cached={reply.cached}")
        misses.append(
            Miss(
                row=row.row.name,
                prompt_tokens=reply.prompt_tokens,
                round_number=number,
                place=place,
                ttft_s=reply.ttft_s,
                total_s=reply.total_s,
            )
        )
    return misses


def misses_table(misses: Sequence[Miss]) -> str:
    """Return how much longer a round of misses took than without the disk tier."""
    rows = []
    for length in sorted({miss.prompt_tokens for miss in misses}):
        here = [miss for miss in misses if miss.prompt_tokens == length]
        base = miss_times(here, HOST)
        for row in dict.fromkeys(miss.row for miss in here):
            ours = miss_times(here, row)
            after = [
                round_ratios(miss_times(here, row, after), miss_times(here, HOST, after))
                for after in (False, True)
            ]
            cells = [_shown(round_ratios(ours, base)), *map(_shown, after)]
            times_ms = summarize(1e3 * seconds / PROMPTS_A_ROUND for seconds in ours.values())
            rows.append([f"{row}, {length}", _shown(times_ms), *cells])
    head = ["row, prompt tokens", "TTFT ms", "over host alone", "after a pause", "after another"]
    return table(head, rows)


def miss_times(misses: Sequence[Miss], row: str, after: bool | None = None) -> dict[int, float]:
    """Return the TTFT of a row's misses by round, added up; of those after another one only, or
    not, where `after` says so."""
    sums: dict[int, float] = {}
    for miss in misses:
        if miss.row == row and after in (None, miss.place > 0):
            sums[miss.round_number] = sums.get(miss.round_number, 0.0) + miss.ttft_s
    return sums


def _shown(found: Summary | None) -> str:
    return str(found or "-")
