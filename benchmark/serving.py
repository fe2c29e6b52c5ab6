"""A real SGLang server under test: start, ask, flush, stop, kill.

Used by the tests, the demo and the benchmarks. On a machine without a GPU it adds the flags that
the CPU needs; with one it adds none.

    with Server.start(model, ["--page-size", "64"], log=Path("server.log")) as server:
        reply = server.generate(input_ids=[1, 2, 3])
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families

READY_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0
AT_ONCE = 2

CPU_FLAGS = (
    "--device", "cpu",
    "--attention-backend", "torch_native",
    "--sampling-backend", "pytorch",
    "--grammar-backend", "none",
)  # fmt: skip

_SCHEDULER_TIME = re.compile(
    r"time on the scheduler thread\. .* p50_ms=(?P<p50>[\d.]+) p99_ms=(?P<p99>[\d.]+) "
    r"cpu_p50_ms=(?P<cpu_p50>[\d.]+) cpu_p99_ms=(?P<cpu_p99>[\d.]+)"
)

Progress = Callable[[str], None]


class ServerError(Exception):
    """The server did not start, died or refused a request; the message says what to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """Prompt tokens served by each tier, as SGLang reports them."""

    device: int = 0
    host: int = 0
    disk: int = 0

    @property
    def total(self) -> int:
        """Tokens that were not computed."""
        return self.device + self.host + self.disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer and what it cost."""

    text: str
    output_ids: tuple[int, ...]
    """Empty for a chat completion, which reports text only."""
    prompt_tokens: int
    cached: Cached
    ttft_s: float
    """From sending the request to the first token, measured by the client."""
    total_s: float


@dataclass(frozen=True, slots=True)
class _Event:
    """One event of a streamed answer, and when it came."""

    body: Mapping[str, object]
    at_s: float


class Server:
    """One SGLang server: its processes, its port and its log. Thread-safe for requests."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    @classmethod
    def start(
        cls,
        model: Path,
        flags: Sequence[str] = (),
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> "Server":
        """Launch a server on a free port of 127.0.0.1 and wait until it answers.

        Args:
            model: a directory for `--model-path`.
            flags: more flags of `launch_server`; they come last, so they win.
            log: takes the server's output; the first line is the command. Overwritten.
            env: added to the environment.
            progress: called about once in 5 s with what is being waited for.

        Raises:
            ServerError: it ended, or was not ready within READY_TIMEOUT_S; nothing is left running.
        """
        _end_like_an_interrupt()
        port = _free_port()
        command = launch_command(model, port, flags)
        server = None
        try:
            with log.open("wb") as out, _interrupts_later():
                out.write(f"$ {shlex.join(command)}\n".encode())
                out.flush()
                process = subprocess.Popen(
                    command,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**server_environment(), **(env or {})},
                    start_new_session=True,
                )
                server = cls(process, port, log)
            server._wait_ready(progress or _silent)
        except BaseException:
            if server is not None:
                server.kill9()
            raise
        return server

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def generate(
        self,
        *,
        prompt: str | None = None,
        input_ids: Sequence[int] | None = None,
        max_new_tokens: int = 16,
        **sampling: object,
    ) -> Reply:
        """Continue a prompt, greedily unless `sampling` says otherwise, ignoring the end token.

        Raises:
            ServerError: the server is gone or answered with an error.
        """
        question = {"text": prompt} if input_ids is None else {"input_ids": list(input_ids)}
        body = {
            **question,
            "sampling_params": {
                "temperature": 0,
                "max_new_tokens": max_new_tokens,
                "ignore_eos": True,
                **sampling,
            },
            "stream": True,
        }
        start_s = time.perf_counter()
        events = list(self._stream("/generate", body))
        meta = events[-1].body["meta_info"]
        return Reply(
            text=events[-1].body["text"],
            output_ids=tuple(events[-1].body["output_ids"]),
            prompt_tokens=meta["prompt_tokens"],
            cached=_cached(meta["cached_tokens"], meta.get("cached_tokens_details")),
            ttft_s=events[0].at_s - start_s,
            total_s=events[-1].at_s - start_s,
        )

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int = 64, model: str = "default"
    ) -> Reply:
        """Ask `/v1/chat/completions`, greedily. The server needs `--enable-cache-report`.

        Raises:
            ServerError: the server is gone or answered with an error.
        """
        body = {
            "model": model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_cached_tokens_details": True,
        }
        start_s = time.perf_counter()
        pieces: list[str] = []
        first_s, end_s = 0.0, 0.0
        usage: Mapping[str, object] = {}
        details = None
        for event in self._stream("/v1/chat/completions", body):
            end_s = event.at_s
            for choice in event.body.get("choices") or ():
                if piece := choice["delta"].get("content"):
                    first_s = first_s or event.at_s
                    pieces.append(piece)
            usage = event.body.get("usage") or usage
            details = (event.body.get("sglext") or {}).get("cached_tokens_details") or details
        counted = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Reply(
            text="".join(pieces),
            output_ids=(),
            prompt_tokens=usage["prompt_tokens"],
            cached=_cached(counted, details),
            ttft_s=first_s - start_s,
            total_s=end_s - start_s,
        )

    def flush_cache(self) -> None:
        """Empty the device and host tiers; waits until no request is running.

        Raises:
            ServerError: the server is gone or refused.
        """
        self.post("/flush_cache", {}, params={"timeout": 30})

    def post(
        self, path: str, body: Mapping[str, object], params: Mapping[str, object] | None = None
    ) -> requests.Response:
        """Send a request and return the answer. Raises ServerError if it is not a success."""
        return self._request("POST", path, json=body, params=params)

    def get(self, path: str) -> requests.Response:
        """Fetch a page, like `/metrics`. Raises ServerError if it is not a success."""
        return self._request("GET", path)

    def metric(self, name: str) -> float:
        """Return the sum of a Prometheus metric's samples over all labels; 0 if there is none yet.

        Raises:
            ServerError: the server is gone.
        """
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name)

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Return a Prometheus metric's samples, added up by the value of one of its labels.

        Raises:
            ServerError: the server is gone.
        """
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name:
                    key = sample.labels[label]
                    values[key] = values.get(key, 0.0) + sample.value
        return values

    def wait_backed_up(self, num_tokens: int, *, timeout_s: float = 60.0) -> None:
        """Wait until the disk tier has taken `num_tokens` tokens since the server's start.

        Pages are written behind the answer, so a test that flushes at once would race with them.

        Raises:
            ServerError: fewer had been taken after `timeout_s`, or the server is gone.
        """
        deadline_s = time.perf_counter() + timeout_s
        while (taken := self.metric("sglang:backuped_tokens_total")) < num_tokens:
            if time.perf_counter() > deadline_s:
                raise ServerError(
                    f"the disk tier took too few tokens. taken={taken:.0f} expected={num_tokens} "
                    f"log={self.log}"
                )
            time.sleep(0.1)

    def cpu_s(self) -> float:
        """Return the CPU seconds of all processes of the server so far."""
        times = [one.cpu_times() for one in self._family()]
        return sum(time.user + time.system for time in times)

    def log_text(self) -> str:
        """Return what the server has logged so far."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Ask the server to end (SIGTERM); kill what is left after STOP_TIMEOUT_S. Idempotent."""
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        _wait_gone(family, timeout_s=STOP_TIMEOUT_S)
        self.kill9(family)

    def kill9(self, family: "Sequence[psutil.Process] | None" = None) -> None:
        """Kill every process of the server at once, as a crash would (SIGKILL). Idempotent."""
        family = self._family() if family is None else family
        # The group holds also those whose parent has ended, which no walk of the tree finds.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_gone(family, timeout_s=STOP_TIMEOUT_S)
        self.process.wait(STOP_TIMEOUT_S)

    def _family(self) -> "list[psutil.Process]":
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait_ready(self, progress: Progress) -> None:
        start_s = time.perf_counter()
        next_report_s = 5.0
        while True:
            waited_s = time.perf_counter() - start_s
            if self.process.poll() is not None:
                raise ServerError(
                    f"the server ended while starting. exit_code={self.process.returncode} "
                    f"log={self.log}\n{_tail(self.log)}"
                )
            with contextlib.suppress(requests.RequestException):
                if requests.get(self.url + "/health", timeout=5).ok:
                    return
            if waited_s > READY_TIMEOUT_S:
                raise ServerError(
                    f"the server is not ready. waited_s={waited_s:.0f} log={self.log}\n"
                    f"{_tail(self.log)}"
                )
            if waited_s >= next_report_s:
                progress(f"waiting for the server, {waited_s:.0f} s")
                next_report_s += 5.0
            time.sleep(0.25)

    def _stream(self, path: str, body: Mapping[str, object]) -> Iterator[_Event]:
        with self._request("POST", path, json=body, stream=True) as response:
            try:
                for line in response.iter_lines():
                    if not line.startswith(b"data: ") or line == b"data: [DONE]":
                        continue
                    event = json.loads(line[len(b"data: ") :])
                    if "error" in event:
                        raise ServerError(f"the request failed. path={path} error={event['error']}")
                    yield _Event(event, time.perf_counter())
            except requests.RequestException as error:
                raise ServerError(f"the answer broke off. path={path} {error}") from error

    def _request(self, method: str, path: str, **options: object) -> requests.Response:
        try:
            response = requests.request(
                method, self.url + path, timeout=REQUEST_TIMEOUT_S, **options
            )
        except requests.RequestException as error:
            raise ServerError(f"the server does not answer. path={path} {error}") from error
        if not response.ok:
            raise ServerError(
                f"the server refused. path={path} status={response.status_code} {response.text}"
            )
        return response


def start_all(starts: Sequence[Callable[[], Server]], stack: contextlib.ExitStack) -> list[Server]:
    """Start servers, AT_ONCE at a time, as a start keeps one core busy; `stack` stops them.

    Raises:
        ServerError: one did not start.
    """
    _end_like_an_interrupt()
    with ThreadPoolExecutor(AT_ONCE) as starters:
        jobs = []
        try:
            jobs += (starters.submit(start) for start in starts)
            return [stack.enter_context(job.result()) for job in jobs]
        except BaseException:
            for job in jobs:
                job.cancel()
            # `timeout` interrupts twice; who stops waiting here leaves servers behind.
            while wait(jobs, timeout=0).not_done:
                with contextlib.suppress(KeyboardInterrupt):
                    wait(jobs)
            for job in jobs:
                if not job.cancelled() and job.exception() is None:
                    stack.enter_context(job.result())
            raise


def scheduler_ms(log: Path) -> dict[str, float]:
    """Return what our tier told of its time on the scheduler thread of a request, at its end.

    Milliseconds by `p50`, `p99`, `cpu_p50` and `cpu_p99`; nothing where there is no such tier.
    """
    found = _SCHEDULER_TIME.search(log.read_text(errors="replace"))
    return {name: float(text) for name, text in found.groupdict().items()} if found else {}


def launch_command(model: Path, port: int, flags: Sequence[str]) -> list[str]:
    """Return the command line of a server, with what a machine without a GPU needs."""
    return [
        *(sys.executable, "-m", "sglang.launch_server"),
        *("--model-path", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--sleep-on-idle", "--enable-cache-report", "--enable-metrics"),
        *(() if has_gpu() else CPU_FLAGS),
        *flags,
    ]


def server_environment() -> dict[str, str]:
    """Return this process's environment as a server needs it."""
    env = dict(os.environ)
    # SGLang builds a small extension with ninja, which it looks for on the PATH only.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    env.setdefault("HF_HUB_OFFLINE", "1")
    if not has_gpu():
        env["SGLANG_USE_CPU_ENGINE"] = "1"
    return env


def has_gpu() -> bool:
    """Return whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def _cached(total: int, details: Mapping[str, object] | None) -> Cached:
    """Sort cached tokens by tier; without details they can only be the device's."""
    if details is None:
        return Cached(device=total)
    return Cached(
        device=details.get("device") or 0,
        host=details.get("host") or 0,
        disk=details.get("storage") or 0,
    )


def _wait_gone(processes: "Sequence[psutil.Process]", *, timeout_s: float) -> None:
    psutil.wait_procs(processes, timeout=timeout_s)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Let an interrupt of the main thread wait until the end, which then raises it.

    One that came while a process is made would leave it behind, as nobody knows it yet.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, lambda number, _: caught.append(number)) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    for one in caught:
        signal.raise_signal(one)


def _end_like_an_interrupt() -> None:
    """Let SIGTERM raise here as Ctrl-C does: servers have sessions of their own, and would stay."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, num_lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-num_lines:])


def _silent(_text: str) -> None:
    pass
