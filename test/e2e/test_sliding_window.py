"""A model whose layers mostly see a window: two pools on disk, and the right answer from both.

These take minutes, so they run only when asked for:

    python -m pytest -m slow test/e2e/test_sliding_window.py
"""

import pytest
from launches import ask, full_page_tokens

from benchmark.models import TINY, TINY_WINDOW, random_windowed
from benchmark.serving import Cached

NUM_TOKENS, NUM_LATER_TOKENS = 1100, 300
# Says what is given up: a model with two pools is written through.
FLAGS = ("--kv-storage-write", "evict")


@pytest.fixture(scope="module")
def model():
    return random_windowed(TINY, window=TINY_WINDOW)


@pytest.fixture
def check(check_answer):
    def check(server, tokens, expected):
        reply = ask(server, tokens)
        check_answer(reply, tokens)
        assert reply.cached == expected

    return check


@pytest.mark.slow
def test_a_windowed_model_hits_from_each_tier(launcher, model, tmp_path, new_prompt, check):
    prompt = new_prompt(NUM_TOKENS)
    in_pages = full_page_tokens(prompt)
    server = launcher.serve(model, tmp_path / "store", *FLAGS)

    check(server, prompt, Cached())
    assert "kv storage holds another pool. pool=swa" in server.log_text()
    server.wait_backed_up(in_pages)
    check(server, prompt, Cached(device=in_pages))
    server.flush_cache()

    # KV of its first 640 tokens is on disk, but not the window before them: SGLang keeps that where
    # a prompt ended. Computed, then, and not answered from a window with holes.
    branch = [*prompt[:700], *new_prompt(400)]
    check(server, branch, Cached())
    # At once, while the branch is being written.
    server.flush_cache()
    check(server, prompt, Cached(disk=in_pages))
    longer = [*prompt, *new_prompt(NUM_LATER_TOKENS)]
    check(server, longer, Cached(device=in_pages))
    launcher.stop()


@pytest.mark.slow
def test_a_windowed_model_hits_after_a_restart(launcher, model, tmp_path, new_prompt, check):
    launch = (model, tmp_path / "store", *FLAGS)
    prompt = new_prompt(NUM_TOKENS)
    branch = [*prompt[:700], *new_prompt(400)]
    server = launcher.serve(*launch)
    check(server, prompt, Cached())
    server.wait_backed_up(full_page_tokens(prompt))

    launcher.stop()
    server = launcher.serve(*launch)
    check(server, branch, Cached())
    server.wait_backed_up(full_page_tokens(branch))
    for tokens in (prompt, branch):
        server.flush_cache()
        check(server, tokens, Cached(disk=full_page_tokens(tokens)))
    launcher.stop()
