"""What the harness makes of a server's words; the server itself is tested in test/e2e."""

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmark import serving
from benchmark.serving import Cached, Server, ServerError


@pytest.fixture
def answering():
    """Make a Server whose other end answers every request with the given body."""
    running = []

    def make(body, status=200):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *_args):
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever).start()
        running.append(http)
        return Server(None, http.server_port, None)

    yield make
    for http in running:
        http.shutdown()
        http.server_close()


def events(*bodies):
    return "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + "data: [DONE]\n\n"


def meta(**details):
    return {"prompt_tokens": 9, "cached_tokens": 7, "cached_tokens_details": details or None}


def test_generate_reads_the_last_event(answering):
    server = answering(
        events(
            {"text": "a", "output_ids": [1], "meta_info": meta(device=4, host=1, storage=2)},
            {"text": "ab", "output_ids": [1, 2], "meta_info": meta(device=4, host=1, storage=2)},
        )
    )
    reply = server.generate(prompt="x")
    assert (reply.text, reply.output_ids, reply.prompt_tokens) == ("ab", (1, 2), 9)
    assert reply.cached == Cached(device=4, host=1, disk=2)
    assert 0 < reply.ttft_s <= reply.total_s


def test_chat_joins_the_pieces_and_takes_usage_from_the_end(answering):
    def piece(content):
        return {"choices": [{"delta": {"role": "assistant", "content": content}}]}

    usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}}
    details = {"sglext": {"cached_tokens_details": {"device": 0, "host": 0, "storage": 3}}}
    server = answering(
        events(piece(""), piece("a"), piece("b"), {"choices": [], **details}, {"usage": usage})
    )
    reply = server.chat([{"role": "user", "content": "x"}])
    assert (reply.text, reply.prompt_tokens, reply.cached) == ("ab", 9, Cached(disk=3))
    assert 0 < reply.ttft_s <= reply.total_s


def test_without_details_cached_tokens_are_the_device_s(answering):
    server = answering(events({"text": "", "output_ids": [], "meta_info": meta()}))
    assert server.generate(prompt="x").cached == Cached(device=7)


def test_an_error_inside_a_stream_is_an_error(answering):
    server = answering(events({"error": {"message": "too long"}}))
    with pytest.raises(ServerError, match="too long"):
        server.generate(prompt="x")


def test_a_refusal_is_an_error(answering):
    with pytest.raises(ServerError, match="status=503"):
        answering("busy", status=503).flush_cache()


def test_a_server_that_is_gone_is_an_error():
    server = Server(None, serving._free_port(), None)
    with pytest.raises(ServerError, match="does not answer"):
        server.generate(prompt="x")


def test_metric_is_summed_over_labels(answering):
    server = answering(
        '# TYPE sglang:taken_total counter\nsglang:taken_total{rank="0"} 3\n'
        'sglang:taken_total{rank="1"} 4\n# TYPE sglang:other gauge\nsglang:other 9\n'
    )
    assert server.metric("sglang:taken_total") == 7
    assert server.metric("sglang:absent") == 0


@pytest.fixture
def alive(tmp_path, monkeypatch):
    """Open the read end of the pipe `alive` of the working directory; its other end is a server's.

    Every process of the server holds it, so its end is theirs.
    """
    os.mkfifo(tmp_path / "alive")
    end = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.chdir(tmp_path)
    yield end
    os.close(end)


def assert_ends(alive):
    assert select.select([alive], [], [], 60)[0] == [alive]
    assert os.read(alive, 1) == b""


def test_a_server_that_ends_while_starting_shows_its_log_and_leaves_nothing(
    tmp_path, alive, monkeypatch
):
    script = "exec 3>alive; echo no such model; sleep 1000 & exit 3"
    monkeypatch.setattr(serving, "launch_command", lambda *_: ["sh", "-c", script])
    with pytest.raises(ServerError, match=r"exit_code=3 .*(?s:.*)no such model"):
        Server.start(tmp_path, log=tmp_path / "log")
    assert_ends(alive)


def refuse(*_arguments, **_options):
    raise serving.requests.ConnectionError("refused")


def test_sigterm_left_the_servers_of_a_benchmark_running(tmp_path, alive, monkeypatch):
    """`timeout` ended a benchmark by SIGTERM; its servers, in sessions of their own, went on."""
    script = "exec 3>alive; echo up >&3; sleep 1000"
    monkeypatch.setattr(serving, "launch_command", lambda *_: ["sh", "-c", script])
    # Caught in the middle of a connect, the interrupt would leave a socket to the garbage
    # collector, whose warning then fails whichever test comes next.
    monkeypatch.setattr(serving.requests, "get", refuse)

    def end_when_up():
        assert select.select([alive], [], [], 60)[0] == [alive]
        assert os.read(alive, 3) == b"up\n"
        os.kill(os.getpid(), signal.SIGTERM)

    ender, before = threading.Thread(target=end_when_up), signal.getsignal(signal.SIGTERM)
    ender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Server.start(tmp_path, log=tmp_path / "log")
    finally:
        signal.signal(signal.SIGTERM, before)
    ender.join()
    assert_ends(alive)


@pytest.fixture
def interruptible():
    """Tests may run in the background, where shells have interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_process_is_made_left_it_running(tmp_path, alive, monkeypatch):
    """The signal came inside `Popen`, so that nobody knew the process that was to be ended."""
    popen = subprocess.Popen

    def slow(*arguments, **options):
        process = popen(*arguments, **options)
        assert select.select([alive], [], [], 60)[0] == [alive]
        assert os.read(alive, 3) == b"up\n"
        signal.raise_signal(signal.SIGINT)
        return process

    script = "exec 3>alive; echo up >&3; sleep 1000"
    monkeypatch.setattr(serving, "launch_command", lambda *_: ["sh", "-c", script])
    monkeypatch.setattr(serving.subprocess, "Popen", slow)
    with pytest.raises(KeyboardInterrupt):
        Server.start(tmp_path, log=tmp_path / "log")
    assert_ends(alive)


class Stoppable:
    """Stands in for a server that is up until the stack is left."""

    def __init__(self):
        self.is_up = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_up = False


def test_servers_start_in_any_order_and_are_returned_in_theirs():
    made = [Stoppable() for _ in range(5)]
    together = threading.Barrier(serving.AT_ONCE, timeout=10)

    def start(which):
        if which < serving.AT_ONCE:
            together.wait()
        return made[which]

    with contextlib.ExitStack() as stack:
        found = serving.start_all([partial(start, which) for which in range(5)], stack)
        assert found == made
        assert all(one.is_up for one in made)
    assert not any(one.is_up for one in made)


def test_where_one_does_not_start_those_that_did_are_stopped():
    first, second = Stoppable(), Stoppable()

    def fail():
        raise ServerError("why")

    with pytest.raises(ServerError, match="why"), contextlib.ExitStack() as stack:
        serving.start_all([lambda: first, fail, lambda: second], stack)
    assert not first.is_up
    # It was never started, or stopped.
    assert serving.start_all([], contextlib.ExitStack()) == []


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_left_a_starting_server_behind():
    """`timeout` sends its signal to the process and to its group."""
    server, asked = Stoppable(), threading.Event()

    def start():
        for _ in range(2):
            asked.wait(0.5)
            os.kill(os.getpid(), signal.SIGINT)
        asked.wait(0.5)
        return server

    with pytest.raises(KeyboardInterrupt), contextlib.ExitStack() as stack:
        serving.start_all([start], stack)
    assert not server.is_up


def test_time_on_the_scheduler_thread_is_what_the_log_says(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "kv storage time on the scheduler thread. requests=3 p50_ms=0.125 p99_ms=1.500 "
        "cpu_p50_ms=0.100 cpu_p99_ms=0.200\n"
    )
    found = serving.scheduler_ms(log)
    assert found == {"p50": 0.125, "p99": 1.5, "cpu_p50": 0.1, "cpu_p99": 0.2}
    log.write_text("nothing of it")
    assert serving.scheduler_ms(log) == {}
