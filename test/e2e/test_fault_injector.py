"""SGLang's own fault injector in front of the tier: right answers to all, and nobody left waiting.

It waits up to 200 ms before each call of a storage backend and lets 30 in 100 fail: look-ups,
reads, and under `through` writes (under `evict` pages pass it by on their way to disk). SGLang
makes all look-ups on one thread and all reads on another, so the waits of all clients add up. What
was injected is logged: `--log-cli-level=INFO` shows it.
"""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from launches import DEVICE_TOKENS, HOST_TOKENS, ask, full_page_tokens

logger = logging.getLogger(__name__)

NUM_CLIENTS = 8
PROMPT_TOKENS = 1000
INJECTOR = {
    "SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY": "0.2",
    "SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE": "0.3",
}


@pytest.mark.parametrize(
    "policy, num_rounds, num_prompts",
    [
        ("through", 3, 14),
        pytest.param("through", 10, 20, marks=pytest.mark.slow),
        pytest.param("evict", 10, 20, marks=pytest.mark.slow),
    ],
)
def test_a_tier_that_fails_and_dawdles_costs_hits_only(
    launcher, model, tmp_path, monkeypatch, new_prompt, check_answer,
    policy, num_rounds, num_prompts,
):  # fmt: skip
    # More than device and host hold, asked in turn: what was asked before is on disk or nowhere.
    assert num_prompts * PROMPT_TOKENS > DEVICE_TOKENS + HOST_TOKENS
    for name, value in INJECTOR.items():
        monkeypatch.setenv(name, value)
    server = launcher.serve(model, tmp_path / "store", "--kv-storage-write", policy)
    prompts = [new_prompt(PROMPT_TOKENS) for _ in range(num_prompts)]

    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        replies = list(clients.map(lambda prompt: ask(server, prompt), prompts * num_rounds))

    for i, prompt in enumerate(prompts):
        check_answer(replies[i], prompt)
        assert {reply.output_ids for reply in replies[i::num_prompts]} == {replies[i].output_ids}
    from_disk = [reply.cached.disk for reply in replies]
    log = server.log_text()
    num_failed = {"writes": log.count("pages failed."), "reads": log.count("failed to retrieve")}
    logger.info(
        "policy=%s requests=%d with_disk_hits=%d failed=%s",
        policy, len(replies), sum(map(bool, from_disk)), num_failed,
    )  # fmt: skip
    assert max(from_disk) <= full_page_tokens(prompts[0])
    # It did hit, and it did fail.
    assert any(from_disk)
    assert sum(num_failed.values()) > 0
    server.flush_cache()
    launcher.stop()
