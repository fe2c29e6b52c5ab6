"""SIGTERM to a scheduler process: what is due is written first, then it dies as it would have."""

import signal
import subprocess
import sys
import textwrap

PROGRAM = """
    import os, signal, sys, threading
    from sglang_lsm_patch.shutdown import before_sigterm

    before = sys.argv[1]
    if before == "handler":
        signal.signal(signal.SIGTERM, lambda *_: (print("theirs", flush=True), os._exit(7)))
    elif before == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    lock = threading.Lock()

    def action():
        with lock:
            print("ours", flush=True)
        if before == "hangs":
            threading.Event().wait()

    before_sigterm(action, timeout_s=0.05 if before == "hangs" else 30.0)
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
    assert run("hangs") == (-signal.SIGTERM, ["ours"], "")
