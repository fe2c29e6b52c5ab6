"""A disk that is slower than computing: what was stored is computed, and the answer is right."""

import time

import pytest
from launches import ask, ask_and_store, full_page_tokens
from slow_disk import SlowDisk

from benchmark.serving import Cached
from sglang_lsm_patch.metrics import INTERVAL_S

TOKEN_BYTES = 4096
FIRST_PART_TOKENS = 1024
"""4 MiB of the tiny model."""


@pytest.fixture
def slow_disk(tmp_path, monkeypatch):
    disk = SlowDisk(tmp_path)
    for name, value in disk.environment().items():
        monkeypatch.setenv(name, value)
    return disk


@pytest.mark.slow
def test_a_disk_slower_than_prefill_is_left_alone(
    launcher, model, tmp_path, slow_disk, new_prompt, check_answer
):
    server = launcher.serve(model, tmp_path / "store", "--kv-storage-gate", "auto")
    prompt = new_prompt(3000)

    def again():
        server.flush_cache()
        reply = ask(server, prompt)
        check_answer(reply, prompt)
        return reply.cached

    assert ask_and_store(server, prompt).cached == Cached()
    assert again() == Cached(disk=full_page_tokens(prompt))

    # 250 ms a page, tens of times what computing it takes.
    slow_disk.slow_down(seconds_per_mib=1.0)
    assert again() == Cached(disk=FIRST_PART_TOKENS)
    assert again() == Cached()
    # Metrics are told in a step of the scheduler, now and then.
    time.sleep(INTERVAL_S)
    ask(server, new_prompt(300))
    pages = server.by_label("sglang:kv_storage_gate_pages_total", "decision")
    assert (pages["cut"], pages["declined"]) == (30, 46)
    read_tokens_per_s = server.metric("sglang:kv_storage_read_bytes_per_second") / TOKEN_BYTES
    assert 0 < read_tokens_per_s < server.metric("sglang:kv_storage_prefill_tokens_per_second")
    launcher.stop()
    assert "pages_cut=30 " in server.log_text()
