"""Processes to measure in: one a rival that stays, or one a measurement."""

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec, TypeVar

from benchmark.measure import Cell, Figures, WrongPagesError, measure
from benchmark.memory_limit import inside
from benchmark.rivals import RivalUnavailableError, Space, open_rival

_CONTEXT = multiprocessing.get_context("spawn")
P = ParamSpec("P")
T = TypeVar("T")


class WorkerDiedError(Exception):
    """The rival's process ended; its traceback is on standard error."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Why there are no figures; printed as a row."""

    reason: str
    failed: bool
    """True where the rival ran and went wrong, False where it cannot run here."""


def run_alone(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | Unmeasured:
    """Call `work` in a fresh process, so that no measurement inherits another's memory.

    A rival that is unavailable, loses pages, fails at I/O or kills its process is `Unmeasured`;
    anything else is a bug of the benchmark and is raised.
    """
    with ProcessPoolExecutor(1, _CONTEXT) as process:
        job = process.submit(work, *arguments, **named)
        try:
            return job.result()
        except RivalUnavailableError as error:
            return Unmeasured(str(error), failed=False)
        except (WrongPagesError, OSError, BrokenProcessPool) as error:
            return Unmeasured(f"failed: {error}", failed=True)


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to measure."""

    cell: Cell
    seed: int
    group: Path | None = None
    """Memory cgroup to run in."""


class Worker:
    """The driver's end of one rival's process. Owned by one thread."""

    def __init__(self, rival_name: str, directory: Path) -> None:
        self.rival_name = rival_name
        self._directory = directory
        self._start()

    def restart(self) -> str | None:
        """Start anew after a death, on a clean directory; return what `wait_ready` returns."""
        self._connection.close()
        shutil.rmtree(self._directory / self.rival_name, ignore_errors=True)
        self._start()
        return self.wait_ready()

    def wait_ready(self) -> str | None:
        """Return None once the rival runs, or the reason why it cannot run here.

        Raises:
            WorkerDiedError: it failed in another way.
        """
        return self._receive()

    def run(self, task: Task) -> Figures:
        """Measure one cell.

        Raises:
            WorkerDiedError: the rival failed.
        """
        try:
            self._connection.send(task)
        except BrokenPipeError:
            raise self._death() from None
        return self._receive()

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _start(self) -> None:
        self._connection, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve, args=(self.rival_name, self._directory, other), daemon=True
        )
        self._process.start()
        other.close()

    def _receive(self):
        try:
            return self._connection.recv()
        except EOFError:
            raise self._death() from None

    def _death(self) -> WorkerDiedError:
        self._process.join()
        return WorkerDiedError(f"the process ended. exit_code={self._process.exitcode}")


def _serve(rival_name: str, directory: Path, driver: Connection) -> None:
    """Open the rival once, on a scratch directory, so that its imports are paid; then obey."""
    own = directory / rival_name
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            open_rival(rival_name, Space(Path(scratch), 4096, 1)).close()
        except RivalUnavailableError as error:
            driver.send(str(error))
            return
    driver.send(None)
    while True:
        try:
            task: Task = driver.recv()
        except EOFError:
            return
        with inside(task.group):
            figures = measure(rival_name, task.cell, own, seed=task.seed)
        driver.send(figures)


@contextmanager
def worker_pool(
    rival_names: Sequence[str], directory: Path
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Start a worker for each rival; yield those that run, and the reasons of those that do not."""
    workers = {name: Worker(name, directory) for name in rival_names}
    try:
        reasons: dict[str, str] = {}
        for name, worker in workers.items():
            try:
                reason = worker.wait_ready()
            except WorkerDiedError as error:
                reason = f"failed: {error}"
            if reason is not None:
                reasons[name] = reason
        yield {n: w for n, w in workers.items() if n not in reasons}, reasons
    finally:
        for worker in workers.values():
            worker.stop()
