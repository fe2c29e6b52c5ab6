"""SIGTERM to a scheduler process: what is due is written first, then it dies as it would have."""

import signal
import subprocess
import sys
import textwrap
import threading

from sglang_lsm_patch.shutdown import end_within

PROGRAM = """
    import os, signal, sys, threading
    from sglang_lsm_patch.shutdown import BeforeSigterm

    before = sys.argv[1]
    if before == "handler":
        signal.signal(signal.SIGTERM, lambda *_: (print("theirs", flush=True), os._exit(7)))
    elif before == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    lock, num_calls = threading.Lock(), 0

    def action():
        global num_calls
        num_calls += 1
        if num_calls > 1:
            # What the first call took in hand is not there any more.
            return
        if before == "again":
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
                # Time for the main thread to be interrupted, and to die of it.
                threading.Event().wait(0.1)
        with lock:
            print("ours", flush=True)
        if before == "hangs":
            threading.Event().wait()

    sigterm = BeforeSigterm(action, timeout_s=0.05 if before == "hangs" else 30.0)
    sigterm.install()
    if before == "flushing":
        with sigterm.postponed():
            with sigterm.postponed():
                os.kill(os.getpid(), signal.SIGTERM)
            print("flushed", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("alive", flush=True)
"""


def run(before):
    code = textwrap.dedent(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", code, before], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout.split(), done.stderr


def test_the_process_dies_of_the_signal_after_our_part():
    assert run("default") == (-signal.SIGTERM, ["ours"], "")


def test_a_handler_that_was_there_has_the_last_word():
    assert run("handler") == (7, ["ours", "theirs"], "")


def test_a_process_that_ignores_the_signal_lives_on():
    assert run("ignored") == (0, ["ours", "alive"], "")


def test_our_part_is_bounded():
    code, said, _ = run("hangs")
    assert (code, said) == (-signal.SIGTERM, ["ours"])


def test_another_signal_does_not_cut_our_part_short():
    """A process manager that signals twice killed the scheduler in the middle of its writing."""
    assert run("again") == (-signal.SIGTERM, ["ours"], "")


def test_a_signal_waits_for_a_flush_that_the_main_thread_is_in():
    assert run("flushing") == (-signal.SIGTERM, ["flushed", "ours"], "")


def test_what_takes_too_long_goes_on_alone():
    gate, ended = threading.Event(), threading.Event()
    end_within(0.0, lambda: (gate.wait(30.0), ended.set()))
    assert not ended.is_set()
    gate.set()
    assert ended.wait(30.0)
