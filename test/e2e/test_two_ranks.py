"""Two tensor-parallel ranks, each with a store of its own: the shorter counts, and nobody hangs.

Four servers of two ranks take minutes on a small machine, so this runs only when asked for:

    python -m pytest -m slow test/e2e/test_two_ranks.py
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from launches import PAGE_TOKENS, SIZING, ask, full_page_tokens, tier_flags
from stored_pages import overwrite_page, page_locations, read_page

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


@pytest.mark.slow
def test_a_rank_that_reads_wrong_not_at_all_or_late_costs_hits_only(
    launcher, model, tmp_path, new_prompt, check_answer
):
    launcher.stop()
    directory, faults = tmp_path / "tier", tmp_path / "faults.json"
    flags = (*SIZING, *tier_flags(directory, write="evict"), *FLAGS)
    prompt = new_prompt(1000)
    in_pages = full_page_tokens(prompt)
    path = [str(Path(__file__).parent / "faults"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **ENVIRONMENT, "FAULTS_FILE": str(faults), "PYTHONPATH": os.pathsep.join(path)
    }  # fmt: skip

    def inject(kind):
        faults.write_text(kind and json.dumps({"below": "tp1-pp0/log", "kind": kind}))

    def check(server, expected):
        server.flush_cache()
        reply = ask(server, prompt)
        check_answer(reply, prompt)
        assert reply.cached == expected

    inject("")
    with Server.start(model, flags, log=tmp_path / "first.log", env=environment) as server:
        check(server, Cached())
        check(server, Cached(disk=in_pages))

    second_rank = directory / "tp1-pp0"
    sixth = page_locations(second_rank)[5]
    page = read_page(second_rank, sixth)
    overwrite_page(second_rank, sixth, bytes([page[0] ^ 1]) + page[1:], drop_cache=True)
    with Server.start(model, flags, log=tmp_path / "second.log", env=environment) as server:
        check(server, Cached(disk=5 * PAGE_TOKENS))
        # It was computed again, and written.
        check(server, Cached(disk=in_pages))
        inject("slow")
        check(server, Cached(disk=in_pages))
        inject("fail")
        check(server, Cached())
        inject("")
        check(server, Cached(disk=in_pages))
