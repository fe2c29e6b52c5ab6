"""Hits on a running server: exact tokens by tier, and the same answer each time."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from launches import (
    DEVICE_TOKENS,
    HOST_TOKENS,
    PAGE_TOKENS,
    ask,
    ask_and_store,
    evict,
    full_page_tokens,
    refusal,
    tier_flags,
)
from stored_pages import overwrite_page, page_locations, read_page

from benchmark.serving import Cached

CLIENTS, PROMPTS_EACH = 2, 3


def stats(directory):
    command = [sys.executable, "-m", "sglang_lsm.cli.main", "stats", "--json", str(directory)]
    (store,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return store


def test_the_log_says_in_one_line_that_the_tier_is_on(server, directory):
    (line,) = [line for line in server.log_text().splitlines() if "kv storage on." in line]
    assert f"path={directory}" in line
    assert f"size_bytes={512 << 20}" in line
    assert f"page_size={PAGE_TOKENS}" in line
    assert '"kv_dtype":"float32"' in line


def test_stats_shows_the_pages_while_the_server_runs(server, directory, new_prompt):
    before = stats(directory)
    ask_and_store(server, new_prompt(1000))
    after = stats(directory)

    (namespace,) = after["namespaces"]
    was = before["namespaces"][namespace]
    now = after["namespaces"][namespace]
    assert now["num_pages"] - was["num_pages"] == 1000 // PAGE_TOKENS
    assert now["num_roots"] - was["num_roots"] == 1
    assert json.loads(now["fingerprint"])["page_size"] == PAGE_TOKENS


def test_hit_after_flush(server, new_prompt, check_answer):
    prompt = new_prompt(1000)
    cold = ask_and_store(server, prompt)
    warm = ask(server, prompt)
    server.flush_cache()
    from_disk = ask(server, prompt)

    assert cold.cached == Cached()
    assert warm.cached == Cached(device=960)
    assert from_disk.cached == Cached(disk=960)
    assert cold.output_ids == warm.output_ids == from_disk.output_ids
    check_answer(cold, prompt)


@pytest.mark.parametrize("name", ["cache_salt", "extra_key"])
def test_requests_with_a_name_of_their_own_hit_only_what_is_theirs(
    server, new_prompt, check_answer, name
):
    """`extra_key` is also what SGLang keeps the requests of LoRA adapters apart by."""
    prompt = new_prompt(1000)
    ask_and_store(server, prompt)
    body = {"input_ids": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": 1}}

    def cached_tokens(value):
        return server.post("/generate", {**body, name: value}).json()["meta_info"]["cached_tokens"]

    for value in ("a", "b"):
        before = int(server.metric("sglang:backuped_tokens_total"))
        assert cached_tokens(value) == 0
        server.wait_backed_up(before + 960)
    for value in ("a", "b"):
        server.flush_cache()
        assert cached_tokens(value) == 960
    server.flush_cache()
    reply = ask(server, prompt)
    assert reply.cached == Cached(disk=960)
    check_answer(reply, prompt)


def test_hit_after_eviction_from_device_and_host(server, new_prompt, check_answer):
    prompt = new_prompt(1000)
    cold = ask_and_store(server, prompt)
    evict(server, new_prompt, num_tokens=DEVICE_TOKENS, store=True)
    from_host = ask(server, prompt)
    evict(server, new_prompt, num_tokens=HOST_TOKENS, store=True)
    from_disk = ask(server, prompt)

    assert from_host.cached == Cached(host=960)
    assert from_disk.cached == Cached(disk=960)
    assert cold.output_ids == from_host.output_ids == from_disk.output_ids
    check_answer(cold, prompt)


def test_tail_from_disk_behind_a_head_on_the_device(server, new_prompt, check_answer):
    """The radix path of the tail runs through pages that only the device tier holds."""
    prompt = new_prompt(2000)
    cold = ask_and_store(server, prompt)
    server.flush_cache()
    head = ask(server, prompt[:640])
    mixed = ask(server, prompt)

    assert head.cached == Cached(disk=576)
    assert mixed.cached == Cached(device=640, disk=1984 - 640)
    assert mixed.output_ids == cold.output_ids
    check_answer(cold, prompt)


def test_prefix_from_disk_under_a_new_tail(server, new_prompt, check_answer):
    shared = new_prompt(1024)
    ask_and_store(server, shared + new_prompt(300))
    server.flush_cache()
    prompt = shared + new_prompt(300)
    reply = ask_and_store(server, prompt, num_new=full_page_tokens(prompt) - 1024)

    assert reply.cached == Cached(disk=1024)
    check_answer(reply, prompt)


def test_two_clients_hit_at_once(server, new_prompt, check_answer):
    """Each keeps several prompts in flight; one prompt is asked by both at the same time."""
    common = new_prompt(500)
    prompts = [
        prompt
        for _ in range(CLIENTS)
        for prompt in (common, *(new_prompt(500) for _ in range(PROMPTS_EACH - 1)))
    ]
    num_distinct = len(prompts) - CLIENTS + 1
    before = int(server.metric("sglang:backuped_tokens_total"))
    with ThreadPoolExecutor(len(prompts)) as clients:
        cold = list(clients.map(lambda prompt: ask(server, prompt), prompts))
        server.wait_backed_up(before + num_distinct * 448)
        server.flush_cache()
        warm = list(clients.map(lambda prompt: ask(server, prompt), prompts))

    # Of two equal prompts in flight, the second may find what the first has just loaded.
    assert [reply.cached.total for reply in warm] == [448] * len(prompts)
    assert sum(reply.cached.disk for reply in warm) >= num_distinct * 448
    assert [r.output_ids for r in warm] == [r.output_ids for r in cold]
    for reply, prompt in zip(warm, prompts, strict=True):
        check_answer(reply, prompt)


@pytest.mark.parametrize("drop_cache", [False, True], ids=["cached", "uncached"])
@pytest.mark.parametrize("damage", ["garbage", "neighbour"])
def test_damaged_page_is_a_miss_and_is_written_anew(
    server, directory, new_prompt, check_answer, damage, drop_cache
):
    """Page 10 of 15 holds garbage, or the intact bytes of the page before it."""
    prompt = new_prompt(1000)
    stored_before = page_locations(directory)
    cold = ask_and_store(server, prompt)
    pages = page_locations(directory)[len(stored_before) :]
    assert len(pages) == 15

    garbage = random.Random(9).randbytes(pages[9].length)
    wrong = garbage if damage == "garbage" else read_page(directory, pages[8])
    overwrite_page(directory, pages[9], wrong, drop_cache=drop_cache)
    server.flush_cache()
    damaged = ask_and_store(server, prompt, num_new=6 * PAGE_TOKENS)
    server.flush_cache()
    repaired = ask(server, prompt)

    assert damaged.cached == Cached(disk=9 * PAGE_TOKENS)
    assert repaired.cached == Cached(disk=15 * PAGE_TOKENS)
    assert cold.output_ids == damaged.output_ids == repaired.output_ids
    check_answer(cold, prompt)


def test_second_server_on_the_directory_is_refused_and_the_first_serves_on(
    server, model, directory, new_prompt, check_answer
):
    prompt = new_prompt(1000)
    ask_and_store(server, prompt)
    message = refusal(model, *tier_flags(directory))
    server.flush_cache()
    reply = ask(server, prompt)

    assert "in use by another process" in message and str(directory) in message
    assert reply.cached == Cached(disk=960)
    check_answer(reply, prompt)
