"""Traces as lists of requests; a request is the page numbers of its prompt, from the root on.

Equal numbers mean equal prefixes: a page's number stands for everything before it too.

Mooncake's form is JSONL, maybe gzipped, with `timestamp` and `hash_ids` (blocks of 512 tokens, each
hash covering its prefix); the last block of a prompt may be partly filled. Agent traces are folders
of JSONL in a tar file, one file a conversation, with `timestamp`, `session_id`, `input` as text.
Text becomes pages of 256 bytes, about 64 tokens of English: a stand-in for a tokenizer that changes
where pages are cut, not which prompts share a prefix.
"""

import gzip
import hashlib
import heapq
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Request = Sequence[int]

PAGE_TEXT_BYTES = 256


class Turn(NamedTuple):
    """One request of a conversation, as text."""

    timestamp: int
    """Microseconds."""
    session_id: str
    text: str


class Arrival(NamedTuple):
    """A request, and when it came."""

    at_s: float
    pages: Request


def load(trace: Path, *, folder: str = "", sessions: int = 1) -> list[Request]:
    """Return the requests of a trace in order of time; see `load_arrivals`."""
    return [arrival.pages for arrival in load_arrivals(trace, folder=folder, sessions=sessions)]


def load_arrivals(trace: Path, *, folder: str = "", sessions: int = 1) -> list[Arrival]:
    """Return the requests of a trace and their times, in order of time.

    Args:
        trace: a file in one of the two forms.
        folder: of a tar file, the folder to read; empty for all.
        sessions: conversations of a tar file that run at once, see `load_turns`.
    """
    if ".tar" not in trace.name:
        return list(_mooncake(trace))
    return _cut_into_pages(load_turns(trace, folder=folder, sessions=sessions))


def load_turns(trace: Path, *, folder: str = "", sessions: int = 1) -> list[Turn]:
    """Return the turns of a tar file's conversations, in order of time.

    Args:
        trace: the tar file.
        folder: the folder to read; empty for all.
        sessions: conversations that run at once. They keep their own pace; the next one begins
            where one has ended. 1 keeps the time that was recorded.
    """
    turns = sorted(_turns(trace, folder))
    return turns if sessions == 1 else _at_once(turns, sessions)


def num_distinct(requests: Sequence[Request]) -> int:
    """Return how many different pages the requests name: the working set."""
    return len(set().union(*requests))


def ideal_hits(requests: Sequence[Request]) -> int:
    """Return the hits of a cache without limit, in pages."""
    seen: set[int] = set()
    hits = 0
    for request in requests:
        hits += leading(request, seen)
        seen.update(request)
    return hits


def leading(request: Request, stored: set[int]) -> int:
    """Return how many leading pages of a request are among `stored`."""
    for i, page in enumerate(request):
        if page not in stored:
            return i
    return len(request)


def _mooncake(trace: Path) -> Iterator[Arrival]:
    data = trace.read_bytes()
    text = gzip.decompress(data) if trace.suffix == ".gz" else data
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for row in sorted(rows, key=lambda row: row["timestamp"]):
        yield Arrival(row["timestamp"] / 1e3, row["hash_ids"])


def _turns(trace: Path, folder: str) -> Iterator[Turn]:
    with tarfile.open(trace) as archive:
        for member in archive:
            if not (member.name.startswith(folder) and member.name.endswith(".jsonl")):
                continue
            file = archive.extractfile(member)
            for line in file or ():
                row = json.loads(line)
                yield Turn(row["timestamp"], row["session_id"], row["input"])


def _at_once(turns: Sequence[Turn], sessions: int) -> list[Turn]:
    of_session: dict[str, list[Turn]] = {}
    for turn in turns:
        of_session.setdefault(turn.session_id, []).append(turn)
    free_at = [0] * sessions
    moved = []
    for own in of_session.values():
        shift = heapq.heappop(free_at) - own[0].timestamp
        moved += [turn._replace(timestamp=turn.timestamp + shift) for turn in own]
        heapq.heappush(free_at, own[-1].timestamp + shift + 1)
    return sorted(moved)


def _cut_into_pages(turns: Sequence[Turn]) -> list[Arrival]:
    numbers: dict[bytes, int] = {}
    arrivals = []
    for turn in turns:
        text, chain, pages = turn.text.encode(), b"", []
        for start in range(0, len(text) - PAGE_TEXT_BYTES + 1, PAGE_TEXT_BYTES):
            chain = hashlib.sha256(chain + text[start : start + PAGE_TEXT_BYTES]).digest()
            pages.append(numbers.setdefault(chain, len(numbers)))
        arrivals.append(Arrival(turn.timestamp / 1e6, pages))
    return arrivals
