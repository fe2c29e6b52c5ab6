"""The two clocks of a store, passed in so that tests can turn them."""

import time
from collections.abc import Callable
from typing import NamedTuple


class Clock(NamedTuple):
    """What time it is."""

    monotonic_s: Callable[[], float] = time.monotonic
    """Seconds since some moment; never goes back. For waiting."""
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """Milliseconds since 1970; may jump. For what has to outlive the process."""
