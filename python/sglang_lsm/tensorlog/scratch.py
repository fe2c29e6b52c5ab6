"""Memory for what only passes through: of each thread its own, aligned as O_DIRECT wants it."""

import mmap
import threading


class Scratch:
    """Gives each thread memory that it takes again and again. Thread-safe."""

    def __init__(self, keep_bytes: int) -> None:
        """Begin with none.

        Args:
            keep_bytes: what a thread keeps at most; more is made each time.
        """
        self._keep_bytes = keep_bytes
        self._of_thread = threading.local()

    def take(self, num_bytes: int) -> memoryview:
        """Return memory of this thread; valid until its next call."""
        memory: memoryview | None = getattr(self._of_thread, "memory", None)
        if memory is None or len(memory) < num_bytes:
            memory = memoryview(mmap.mmap(-1, max(1, num_bytes)))
            if num_bytes <= self._keep_bytes:
                self._of_thread.memory = memory
        return memory[:num_bytes]
