"""Two tensor-parallel ranks, each with a store of its own: the shorter counts, and nobody hangs.

Two servers of two ranks take minutes on a small machine, so this runs only when asked for:

    python -m pytest -m slow test/e2e/test_two_ranks.py
"""

import shutil

import pytest
from launches import SIZING, ask, full_page_tokens, tier_flags

from benchmark.serving import Cached, Server

FLAGS = ("--tp-size", "2", "--kv-storage-flush-writes", "--kv-storage-write-delay", "1e9")
ENVIRONMENT = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
"""One core a rank. Without it SGLang wants a NUMA node for each rank on a CPU."""


@pytest.mark.slow
def test_a_rank_whose_store_is_empty_shortens_the_hit_for_all(
    launcher, model, tmp_path, new_prompt, check_answer
):
    launcher.stop()
    directory = tmp_path / "tier"
    flags = (*SIZING, *tier_flags(directory, write="evict"), *FLAGS)
    prompt = new_prompt(1000)
    in_pages = full_page_tokens(prompt)

    def check(server, expected, num_tokens=1000):
        reply = ask(server, prompt[:num_tokens])
        check_answer(reply, prompt[:num_tokens])
        assert reply.cached == expected

    with Server.start(model, flags, log=tmp_path / "first.log", env=ENVIRONMENT) as server:
        check(server, Cached())
        server.flush_cache()
        check(server, Cached(disk=in_pages))

    stores = sorted(path.name for path in directory.iterdir())
    assert stores == ["tp0-pp0", "tp1-pp0"]
    shutil.rmtree(directory / "tp1-pp0")
    with Server.start(model, flags, log=tmp_path / "second.log", env=ENVIRONMENT) as server:
        check(server, Cached(), num_tokens=700)
        server.flush_cache()
        # One rank has all of the prompt, the other what was just asked for.
        check(server, Cached(disk=640))
        server.flush_cache()
        check(server, Cached(disk=in_pages))
