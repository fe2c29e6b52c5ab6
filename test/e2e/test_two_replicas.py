"""Two data-parallel replicas on one directory: a store each, the right answers, and disk hits.

Two servers of two replicas take minutes on a small machine, so this runs only when asked for:

    python -m pytest -m slow test/e2e/test_two_replicas.py
"""

import pytest
from launches import SIZING, ask, full_page_tokens, tier_flags

from benchmark.serving import Cached, Server

FLAGS = ("--dp-size", "2", "--load-balance-method", "round_robin", "--kv-storage-flush-writes")
ENVIRONMENT = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}


@pytest.mark.slow
def test_replicas_keep_their_stores_apart(launcher, model, tmp_path, new_prompt, check_answer):
    launcher.stop()
    directory = tmp_path / "tier"
    flags = (*SIZING, *tier_flags(directory, write="evict"), *FLAGS)
    prompt = new_prompt(1000)
    in_pages = full_page_tokens(prompt)

    with Server.start(model, flags, log=tmp_path / "first.log", env=ENVIRONMENT) as server:
        # They take turns, so each of them sees the prompt once in two questions.
        for expected in (Cached(), Cached(), Cached(device=in_pages), Cached(device=in_pages)):
            reply = ask(server, prompt)
            check_answer(reply, prompt)
            assert reply.cached == expected
    assert sorted(p.name for p in directory.iterdir()) == ["tp0-pp0", "tp0-pp0-dp1"]

    with Server.start(model, flags, log=tmp_path / "second.log", env=ENVIRONMENT) as server:
        for _ in range(2):
            reply = ask(server, prompt)
            check_answer(reply, prompt)
            assert reply.cached == Cached(disk=in_pages)
