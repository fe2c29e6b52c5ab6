"""Device profiles and windows for tests of the controller."""

from sglang_lsm.controller.profile import DeviceProfile, Point
from sglang_lsm.controller.reuse import Reuse
from sglang_lsm.controller.window import Surroundings, Window

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
RETURNING_PAGE = 64 * KIB


def device(
    *, direct=1.6e9, cold=1.1e9, hot=6e9, write=1.8e9, latency_s=1e-4, sync_s=2e-3
) -> DeviceProfile:
    """Return a device with these speeds for large transfers; small ones pay the latency."""
    points = []
    for size in (64 * KIB, 512 * KIB, 4 * MIB):
        for depth in (1, 2, 4, 8):
            for kind, limit, cpu in (
                ("read_direct", direct, 5e-11),
                ("read_cold", cold, 3e-10),
                ("write_direct", write, 1e-10),
            ):
                speed = min(limit, depth * size / (latency_s + size / limit))
                points.append(Point(kind, size, depth, speed, cpu))
            points.append(Point("read_hot", size, depth, hot, 1.5e-10))
        points.append(Point("write_buffered", size, 1, hot / 2, 2e-10))
    return DeviceProfile(tuple(points), sync_s=sync_s)


def reads(*, cached=0.0, again=1.0, fills=0.0, share=0.5, **changes) -> Window:
    """Return a window of whole reads of 2 MiB pieces in one run, `share` of the second busy."""
    num_bytes = share * GIB
    figures = {
        "seconds": 1.0,
        "gets": num_bytes / (2 * MIB),
        "bytes_got": num_bytes,
        "extents_got": num_bytes / (2 * MIB),
        "read_s": 0.3,
        "allocated_bytes": 100.0 * GIB,
        "num_pages": 1e5,
    }
    reuse = Reuse(cached=cached, cached_by_reads=cached, fills=fills, again=again)
    around = Surroundings(cache_bytes=1.0 * GIB, reuse=reuse)
    return Window(**{**figures, "around": around, **changes})


def writes(*, share=0.5, again=0.0, recompute_s_per_byte=0.0, **changes) -> Window:
    """Return a window of puts of 2 MiB, of pages of 64 KiB."""
    num_bytes = share * GIB
    figures = {
        "seconds": 1.0,
        "puts": num_bytes / (2 * MIB),
        "bytes_put": num_bytes,
        "pages_put": num_bytes / (64 * KIB),
        "bytes_offered_again": num_bytes * again,
        "write_s": 0.3,
        "allocated_bytes": 100.0 * GIB,
        "num_pages": 1e5,
    }
    around = Surroundings(cache_bytes=1.0 * GIB, recompute_s_per_byte=recompute_s_per_byte)
    return Window(**{**figures, "around": around, **changes})


def returning(*, hits=0.0, waited=0.0, speed=50e6, **rates) -> Window:
    """Return a second of 64 MiB read and 32 MiB put, in which encoding would bring so many hits or
    has brought them, and so many pages read had waited; `speed` bytes of KV are computed a second.
    """
    around = Surroundings(recompute_s_per_byte=1 / speed, encoded_hits=hits, encoded_reads=waited)
    figures = {
        "gets": 32.0, "bytes_got": 64.0 * MIB, "pages_got": 1024.0, "extents_got": 32.0,
        "read_own_s": 0.02, "puts": 16.0, "bytes_put": 32.0 * MIB, "pages_put": 512.0,
        "write_own_s": 0.03, "ask_s": 0.01, "allocated_bytes": float(GIB), "num_pages": 16384.0,
    }  # fmt: skip
    return Window(seconds=1.0, around=around, **{**figures, **rates})
