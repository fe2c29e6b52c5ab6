"""The store's directory fails while the server runs: requests are answered, and right.

These files run in order of their names, so that those on the shared server come first.
"""

import shutil

import pytest
import small_disk
from launches import ask, ask_and_store, refusal, tier_flags

from benchmark.serving import Cached

SIZE = "24MiB"
FAILURE = "kv storage failed, taken as a miss"
REFUSED = " pages failed."
"""Ends SGLang's line about a write that the tier refused; our own comes once in 10 s at most."""
MANY = 4
"""Prompts of 1000 tokens: 15 MiB, more than the segment that is open can take."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory, launcher):
    if reason := small_disk.why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("small-disk")
    with small_disk.mounted(directory):
        yield directory
        launcher.stop()


@pytest.fixture
def serve(launcher, model):
    """The server of a tier's directory, device and host tiers empty."""

    def start(directory):
        server = launcher.serve(model, directory, "--kv-storage-size", SIZE)
        server.flush_cache()
        return server

    return start


def check_answers_many(server, new_prompt, check_answer):
    for _ in range(MANY):
        prompt = new_prompt(1000)
        check_answer(ask(server, prompt), prompt)


def check_works(server, new_prompt, check_answer):
    prompt = new_prompt(1000)
    ask_and_store(server, prompt)
    server.flush_cache()
    reply = ask(server, prompt)
    assert reply.cached == Cached(disk=960)
    check_answer(reply, prompt)


def test_read_only(disk, serve, new_prompt, check_answer):
    server = serve(disk / "store")
    kept = new_prompt(1000)
    ask_and_store(server, kept)
    num_before = server.log_text().count(REFUSED)
    with small_disk.read_only(disk / "store"):
        check_answers_many(server, new_prompt, check_answer)
        assert server.log_text().count(REFUSED) > num_before
        server.flush_cache()
        assert ask(server, kept).cached == Cached(disk=960)

    check_works(server, new_prompt, check_answer)


def test_full(disk, serve, new_prompt, check_answer):
    server = serve(disk / "store")
    num_before = server.log_text().count(REFUSED)
    with small_disk.full(disk) as ballast:
        for _ in range(MANY):
            prompt = new_prompt(1000)
            check_answer(ask(server, prompt), prompt)
            # The tier shrinks and writes on; somebody else takes also that.
            ballast.fill()
        assert server.log_text().count(REFUSED) > num_before

    check_works(server, new_prompt, check_answer)


def test_deleted_then_a_file_in_its_place(
    tmp_path, launcher, serve, model, new_prompt, check_answer
):
    directory = tmp_path / "store"
    server = serve(directory)
    check_works(server, new_prompt, check_answer)

    shutil.rmtree(directory)
    check_answers_many(server, new_prompt, check_answer)
    assert FAILURE in server.log_text()
    directory.write_bytes(b"not a directory")
    check_answers_many(server, new_prompt, check_answer)
    launcher.stop()

    message = refusal(model, *tier_flags(directory, size=SIZE))
    assert "cannot write to --kv-storage-path" in message and str(directory) in message
    assert directory.read_bytes() == b"not a directory"

    directory.unlink()
    check_works(serve(directory), new_prompt, check_answer)
