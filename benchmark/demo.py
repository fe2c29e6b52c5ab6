"""The main job, shown: a real model answers questions about real documents, four times each.

Cold, from the device tier, from disk after `/flush_cache`, and from disk after a restart of the
server. Prints cached tokens by tier and time to first token, and checks that the answers are the
same and that the disk served the prompt. Exit code 1 when a check fails.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median

from benchmark.models import ModelError, smollm2
from benchmark.serving import Reply, Server, ServerError, has_gpu

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".cache" / "demo"
PAGE_SIZE = 64
MIN_DISK_SHARE = 0.95
ANSWER_TOKENS = 32

COLD, DEVICE = "cold", "device hit"
FLUSHED, RESTARTED = "disk hit after /flush_cache", "disk hit after a restart"


@dataclass(frozen=True, slots=True)
class Question:
    """One document and what is asked about it."""

    title: str
    document: str
    text: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat: the document in front, so that other questions share its prefix."""
        return [
            {"role": "system", "content": f"Answer from this document.\n\n{self.document}"},
            {"role": "user", "content": self.text},
        ]


def questions() -> list[Question]:
    """Return three long documents that are on every machine with Python and this repository."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return [
        Question("Apache License 2.0", licence[:8000], "What may I do with the work?"),
        Question("Python: naming and binding", topics["naming"], "What binds a name?"),
        Question("Python: the import statement", topics["import"], "What does import do?"),
    ]


WARM_UP = Question("warm-up", topics["calls"][:2000], "What is a call?")
"""Asked first of every server, so that first uses of a shape are in no figure."""


def flags(store: Path) -> list[str]:
    """Return the flags of the server: the disk tier's, and a cache of known size."""
    return [
        *("--kv-storage", "lsm", "--kv-storage-path", str(store), "--kv-storage-size", "2GB"),
        # Pages are written when they leave host memory; a flush would drop what is still there.
        "--kv-storage-flush-writes",
        *("--page-size", str(PAGE_SIZE), "--max-total-tokens", "8192", "--hicache-ratio", "1.5"),
        # The default gives a read up when the machine is busy, and the table would show that.
        *("--hicache-storage-prefetch-policy", "wait_complete"),
        *(() if has_gpu() else ("--dtype", "float32")),
    ]


def full_pages(reply: Reply) -> int:
    """Return how many pages of the prompt a cache can serve: the last token is always computed."""
    return (reply.prompt_tokens - 1) // PAGE_SIZE


def ask(server: Server, asked: Sequence[Question], name: str) -> list[Reply]:
    """Ask the questions one after the other."""
    replies = []
    for number, question in enumerate(asked, 1):
        say(f"{name}, question {number} of {len(asked)}")
        replies.append(server.chat(question.messages, max_tokens=ANSWER_TOKENS))
    return replies


def run(model: Path, store: Path, asked: Sequence[Question]) -> dict[str, list[Reply]]:
    """Return the replies of each round, in the order of `asked`.

    Raises:
        ServerError: a server did not start, died or refused.
    """
    rounds: dict[str, list[Reply]] = {}
    with start(model, store, "first") as server:
        server.chat(WARM_UP.messages, max_tokens=1)
        rounds[COLD] = ask(server, asked, COLD)
        rounds[DEVICE] = ask(server, asked, DEVICE)
        server.flush_cache()
        rounds[FLUSHED] = ask(server, asked, FLUSHED)
    with start(model, store, "second") as server:
        server.chat(WARM_UP.messages, max_tokens=1)
        rounds[RESTARTED] = ask(server, asked, RESTARTED)
    return rounds


def start(model: Path, store: Path, name: str) -> Server:
    """Start a server and say so."""
    start_s = time.perf_counter()
    say(f"starting the {name} server")
    log = HOME / f"{name}.log"
    server = Server.start(model, flags(store), log=log, progress=say)
    say(f"ready after {time.perf_counter() - start_s:.0f} s, log in {log}")
    return server


def show(asked: Sequence[Question], rounds: dict[str, list[Reply]]) -> None:
    """Print the answers and one line a round and document."""
    for question, reply in zip(asked, rounds[COLD], strict=True):
        print(f"\n{question.title}: {question.text}\n    {reply.text.strip()}")
    heading = ("round", "document", "prompt", "device", "host", "disk", "TTFT")
    row = "{:<28} {:<28} {:>7} {:>7} {:>6} {:>6} {:>8}"
    print("\ncached tokens by tier, and time to first token\n\n" + row.format(*heading))
    for name, replies in rounds.items():
        for question, reply in zip(asked, replies, strict=True):
            tiers = (reply.cached.device, reply.cached.host, reply.cached.disk)
            ttft = f"{reply.ttft_s:.2f} s"
            print(row.format(name, question.title, reply.prompt_tokens, *tiers, ttft))
    print("\nmedian TTFT")
    for name, replies in rounds.items():
        print(f"    {name:<28} {median(r.ttft_s for r in replies):>7.2f} s")
    if not has_gpu():
        print("    (CPU, float32; SGLang's attention corrected so that a hit saves its work)")


def failures(asked: Sequence[Question], rounds: dict[str, list[Reply]]) -> list[str]:
    """Return what the replies should have been and were not."""
    wrong = []
    for i, question in enumerate(asked):
        cold = rounds[COLD][i]
        if cold.cached.total:
            wrong.append(f"{question.title}: the cold round had {cold.cached.total} cached tokens")
        for name, replies in rounds.items():
            if replies[i].text != cold.text:
                wrong.append(f"{question.title}: other answer, {name}: {replies[i].text!r}")
        expected = full_pages(cold) * PAGE_SIZE
        for name in (FLUSHED, RESTARTED):
            if rounds[name][i].cached.disk < MIN_DISK_SHARE * expected:
                wrong.append(
                    f"{question.title}: {name} served {rounds[name][i].cached.disk} of "
                    f"{expected} tokens from disk"
                )
    return wrong


def say(text: str) -> None:
    """Tell how far the demo is."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the demo; exit with 1 when a check fails or a server does not run."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.parse_args()
    store = HOME / "store"
    # The cold round must find nothing.
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    asked = questions()
    try:
        rounds = run(smollm2(), store, asked)
    except (ModelError, ServerError) as error:
        sys.exit(f"demo: {error}")
    show(asked, rounds)
    wrong = failures(asked, rounds)
    print(
        f"\nThe store is in {store}; look at it with\n    {Path(sys.executable).parent}/sglang-lsm "
        f"stats {store}\n"
    )
    for text in wrong:
        print(f"FAILED {text}")
    if wrong:
        sys.exit(1)
    print(
        f"ok: the same answers in all {len(rounds)} rounds, and at least {MIN_DISK_SHARE:.0%} of "
        "the prompts' full pages from disk"
    )


if __name__ == "__main__":
    main()
