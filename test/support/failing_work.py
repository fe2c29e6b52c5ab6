"""Work that goes wrong, each in its own way; here, since a fresh process imports it by name."""

import os

from benchmark.measure import WrongPagesError
from benchmark.rivals import RivalUnavailableError


def die() -> None:
    os._exit(3)


def refuse() -> None:
    raise RivalUnavailableError("no such library")


def lose() -> None:
    raise WrongPagesError("pages are missing")


def mistake() -> None:
    raise KeyError("a bug of the benchmark")
