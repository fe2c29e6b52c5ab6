"""SGLang's own endpoints and figures: attach, detach and clear, hits and transfers counted."""

import pytest
from launches import ask, ask_and_store, full_page_tokens

from benchmark.serving import Cached, ServerError

KEY = "key-of-the-test"
ADMIN = ("--admin-api-key", KEY)
BACKEND = "/hicache/storage-backend"


@pytest.fixture
def server(launcher, model, directory):
    server = launcher.serve(model, directory, *ADMIN)
    flush(server)
    return server


def admin(server, method, path=BACKEND, body=None):
    headers = {"Authorization": f"Bearer {KEY}"}
    return server._request(method, path, json=body, headers=headers)


def flush(server):
    admin(server, "POST", "/flush_cache?timeout=30", {})


def hit_after_flush(server, prompt):
    flush(server)
    return ask(server, prompt).cached


def test_detached_and_attached_again(server, new_prompt, check_answer):
    prompt, meanwhile = new_prompt(1000), new_prompt(1000)
    ask_and_store(server, prompt)
    config = admin(server, "GET").json()["hicache_storage_backend_extra_config"]

    admin(server, "DELETE")
    assert hit_after_flush(server, prompt) == Cached()
    ask(server, meanwhile)

    admin(server, "PUT", body={
        "hicache_storage_backend": "dynamic",
        "hicache_storage_backend_extra_config_json": config,
    })  # fmt: skip
    flush(server)
    reply = ask(server, prompt)
    check_answer(reply, prompt)
    assert reply.cached == Cached(disk=full_page_tokens(prompt))
    # What was computed while the tier was away is not on disk.
    assert hit_after_flush(server, meanwhile) == Cached()


def test_attaching_needs_the_settings_of_the_launch(server, new_prompt):
    prompt = new_prompt(1000)
    ask_and_store(server, prompt)
    config = admin(server, "GET").json()["hicache_storage_backend_extra_config"]
    admin(server, "DELETE")
    backend = {"hicache_storage_backend": "dynamic"}
    bare = '{"module_path": "sglang_lsm_patch.storage", "class_name": "LsmStorage"}'
    with pytest.raises(ServerError, match="Failed to attach"):
        admin(server, "PUT", body={**backend, "hicache_storage_backend_extra_config_json": bare})
    admin(server, "PUT", body={**backend, "hicache_storage_backend_extra_config_json": config})
    assert hit_after_flush(server, prompt) == Cached(disk=full_page_tokens(prompt))


def test_cleared(server, new_prompt):
    prompt = new_prompt(1000)
    ask_and_store(server, prompt)
    admin(server, "POST", f"{BACKEND}/clear")
    assert hit_after_flush(server, prompt) == Cached()
    ask_and_store(server, new_prompt(1000))


def test_hits_and_transfers_are_counted(server, new_prompt):
    names = (
        "sglang:prefetched_tokens_total",
        "sglang:storage_prefetch_hit_tokens_total",
        "sglang:backuped_tokens_total",
        "sglang:prefetch_pgs_sum",
        "sglang:backup_pgs_sum",
        "sglang:prefetch_bandwidth_count",
        "sglang:backup_bandwidth_count",
    )
    before = {name: server.metric(name) for name in names}
    prompt = new_prompt(1000)
    in_pages = full_page_tokens(prompt)
    ask_and_store(server, prompt)
    assert hit_after_flush(server, prompt) == Cached(disk=in_pages)
    # One more step, since figures are polled once a step.
    ask(server, prompt)
    grown = {name: server.metric(name) - before[name] for name in names}
    assert grown["sglang:prefetched_tokens_total"] == in_pages
    assert grown["sglang:storage_prefetch_hit_tokens_total"] == in_pages
    assert grown["sglang:backuped_tokens_total"] == in_pages
    assert grown["sglang:prefetch_pgs_sum"] == grown["sglang:backup_pgs_sum"] == in_pages / 64
    assert grown["sglang:prefetch_bandwidth_count"] == 1
    assert grown["sglang:backup_bandwidth_count"] >= 1
