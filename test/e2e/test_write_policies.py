"""When pages are written, and what is left of them: for each policy, and for each way to end."""

import signal

import psutil
import pytest
from launches import DEVICE_TOKENS, HOST_TOKENS, ask, ask_and_store, full_page_tokens

from benchmark.serving import Cached

NEVER = ("--kv-storage-write-delay", "1e9")
"""Nothing is written because of its age, so that the tests need not wait and cannot race."""


def push_out(server, new_prompt, *, num_tokens, times):
    """Ask for others of `num_tokens` together; each `times`, as selective wants a second hit."""
    for _ in range(-(-num_tokens // 2048)):
        prompt = new_prompt(2048)
        for _ in range(times):
            ask(server, prompt)


def end_scheduler(server):
    """SIGTERM to the scheduler alone, as a process manager that signals the whole group does."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    (scheduler,) = [process for process in family if "sglang::scheduler" in process.name()]
    scheduler.send_signal(signal.SIGTERM)
    psutil.wait_procs([scheduler], timeout=30.0)
    server.kill9()


@pytest.mark.parametrize("policy", ["evict", "through", "selective"])
def test_each_tier_gives_the_same_answer(
    launcher, model, tmp_path, new_prompt, check_answer, policy
):
    launch = (model, tmp_path / "store", "--kv-storage-write", policy, *NEVER)
    times = 2 if policy == "selective" else 1
    prompt = new_prompt(1100)
    in_pages = full_page_tokens(prompt)
    server = launcher.serve(*launch)

    def check(expected):
        reply = ask(server, prompt)
        check_answer(reply, prompt)
        assert reply.cached == expected

    check(Cached())
    check(Cached(device=in_pages))
    push_out(server, new_prompt, num_tokens=DEVICE_TOKENS + 2048, times=times)
    check(Cached(host=in_pages))
    push_out(server, new_prompt, num_tokens=HOST_TOKENS + 2048, times=times)
    check(Cached(disk=in_pages))

    launcher.stop()
    server = launcher.serve(*launch)
    check(Cached(disk=in_pages))
    launcher.stop()


def test_what_evict_writes_before_the_end_and_what_a_kill_loses(
    launcher, model, tmp_path, new_prompt
):
    flags = ("--kv-storage-write", "evict", *NEVER, "--kv-storage-flush-writes")
    launch = (model, tmp_path / "store", *flags)
    young, flushed, ended = (new_prompt(1100) for _ in range(3))
    in_pages = full_page_tokens(ended)
    server = launcher.serve(*launch)

    ask(server, flushed)
    server.flush_cache()
    assert ask(server, flushed).cached == Cached(disk=in_pages)

    ask(server, ended)
    end_scheduler(server)
    launcher.stop()
    server = launcher.serve(*launch)
    assert ask(server, ended).cached == Cached(disk=in_pages)

    # Neither aged nor cold, and a hit hastens nothing.
    ask(server, young)
    assert ask(server, young).cached == Cached(device=in_pages)
    launcher.kill9()
    server = launcher.serve(*launch)
    assert ask(server, young).cached == Cached()
    launcher.stop()


def test_a_kill_loses_nothing_that_has_aged(launcher, model, tmp_path, new_prompt):
    delay = ("--kv-storage-write", "evict", "--kv-storage-write-delay", "0.5")
    launch = (model, tmp_path / "store", *delay)
    prompt = new_prompt(1100)
    ask_and_store(launcher.serve(*launch), prompt)
    launcher.kill9()
    assert ask(launcher.serve(*launch), prompt).cached == Cached(disk=full_page_tokens(prompt))
    launcher.stop()


def test_what_was_never_in_the_host_tier_comes_from_disk(
    launcher, model, tmp_path, new_prompt, check_answer
):
    """The host tier takes what is hit twice; what was asked once leaves the device for the disk."""
    flags = ("--hicache-write-policy", "write_through_selective", *NEVER)
    server = launcher.serve(model, tmp_path / "store", "--kv-storage-write", "evict", *flags)
    prompt = new_prompt(1100)
    assert ask(server, prompt).cached == Cached()
    push_out(server, new_prompt, num_tokens=DEVICE_TOKENS + 2048, times=1)
    reply = ask(server, prompt)
    check_answer(reply, prompt)
    assert reply.cached == Cached(disk=full_page_tokens(prompt))
    launcher.stop()
