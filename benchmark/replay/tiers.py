"""Device, host and disk over one trace, at the level of page keys: who serves which page, and what
is written to disk.

Device and host give up the page that was used longest ago, extensions first, as SGLang's tree does.
The host tier holds what the device holds (SGLang copies pages there when they are computed), but
under `selective`, where a page gets there when it is used again. The write policy `evict` is the
shipped code, `EvictionPath`, with small pages; the other two are SGLang's and are a line each.

Time is the trace's: the eviction path is called a few times a second between requests, so that what
it writes in idle time and by age is written here too.
"""

import hashlib
import mmap
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from sglang_lsm.pages import PageBuffer, PageHash, PagePath

from benchmark.replay.tier_disks import NAMESPACE, PAGE_BYTES, Disk
from benchmark.replay.traces import Arrival
from sglang_lsm_patch.eviction import EvictionPath, EvictionTarget
from sglang_lsm_patch.eviction_figures import EvictionFigures
from sglang_lsm_patch.options import WriteConfig

Policy = Literal["evict", "through", "selective"]

STEP_S = 0.25
NUM_KILLS = 5
"""Points of a replay, evenly spaced, at which it is asked what a kill -9 would leave."""
MAX_IDLE_STEPS = 400
"""Steps after a request until the next one; what is due then is done."""
DRAIN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one replay came to, in pages."""

    asked: int
    device: int
    host: int
    disk: int
    written: int
    needed: int
    """Different pages that were read from disk: no policy could have written less and served as
    much."""
    useful: int = 0
    """Pages in memory that later requests ask for, at all points of NUM_KILLS together."""
    kept: int = 0
    """Of those: on disk, with all before them on their path, so that a kill -9 would not lose
    them."""
    figures: EvictionFigures | None = None

    @property
    def hit_rate(self) -> float:
        """Pages that were not computed, of those asked for."""
        return (self.device + self.host + self.disk) / self.asked


class Tiers:
    """One server's three tiers.

    Args:
        device_pages: of the device pool.
        host_pages: of the host pool; more than the device's.
        disk: below them.
        policy: what writes to it.
        config: of the policy `evict`.
    """

    def __init__(
        self, *, device_pages: int, host_pages: int, disk: Disk, policy: Policy, config: WriteConfig
    ) -> None:
        assert device_pages < host_pages
        self._num_device, self._disk, self._policy = device_pages, disk, policy
        self._device: OrderedDict[int, int] = OrderedDict()
        """Page to how often it was used; the next to leave comes first."""
        self._host: OrderedDict[int, int] = OrderedDict()
        """Page to slot; the next to leave comes first."""
        self._free = list(range(host_pages))[::-1]
        self._names: dict[int, PageHash] = {}
        self._now_s = 0.0
        self._counts: Counter[str] = Counter()
        self._needed: set[int] = set()
        self._bytes = _OnePage()
        self._path: EvictionPath | None = None
        if policy == "evict":
            target = EvictionTarget(
                store=disk,
                namespace=NAMESPACE,
                pages=self._bytes,
                page_size=1,
                num_pages=host_pages,
                config=config,
            )
            self._path = EvictionPath(target, clock=lambda: self._now_s)

    def replay(self, arrivals: Iterable[Arrival]) -> Served:
        """Serve all requests, in order; to be called once."""
        arrivals = list(arrivals)
        kills = {len(arrivals) * i // (NUM_KILLS + 1) for i in range(1, NUM_KILLS + 1)}
        for i, (at_s, pages) in enumerate(arrivals):
            self._idle_until(at_s)
            if i in kills:
                self._count_kept(arrivals[i:])
            self._serve(pages)
        figures = self._path.figures() if self._path is not None else None
        written = self._disk.num_written
        if self._path is not None:
            self._path.empty()
            self._path.close()
        names = ("asked", "device", "host", "disk", "useful", "kept")
        counts = {name: self._counts[name] for name in names}
        return Served(**counts, written=written, needed=len(self._needed), figures=figures)

    def _count_kept(self, future: Sequence[Arrival]) -> None:
        useful: set[int] = set()
        kept: set[int] = set()
        for _, pages in future:
            in_memory = pages[: _leading(pages, self._host)]
            if useful.issuperset(in_memory):
                continue
            useful.update(in_memory)
            names = [self._name(page) for page in in_memory]
            kept.update(in_memory[: self._disk.leading(names, 0)])
        self._counts.update(useful=len(useful), kept=len(kept))

    def _serve(self, pages: Sequence[int]) -> None:
        # A request that does not fit the device is refused by SGLang; here its end is cut off.
        pages = pages[: self._num_device]
        names = [self._name(page) for page in pages]
        on_device = _leading(pages, self._device)
        in_memory = on_device + _leading(pages[on_device:], self._host)
        on_disk = self._disk.leading(names, in_memory)
        found = in_memory + on_disk
        self._counts.update(
            asked=len(pages), device=on_device, host=in_memory - on_device, disk=on_disk
        )
        self._needed.update(pages[in_memory:found])
        self._disk.touch(names[:found])
        if in_memory and self._path is not None:
            self._path.hit(names[in_memory - 1].hex())
        self._use_host(pages)
        self._take_in(pages, names, in_memory, found, is_dirty=False)
        if self._policy != "selective":
            self._take_in(pages, names, found, len(pages), is_dirty=True)
        self._use_device(pages, names)
        # Once more: a prefix must not leave before what was put behind it.
        self._use_host(pages)
        self._step()

    def _take_in(
        self, pages: Sequence[int], names: list[PageHash], start: int, end: int, *, is_dirty: bool
    ) -> None:
        """Put `pages[start:end]`, which are in memory from now on, into the host tier."""
        new = [i for i in range(start, end) if pages[i] not in self._host]
        if not new:
            return
        self._make_room(len(new))
        slots = [self._free.pop() for _ in new]
        # Extensions first, so that they leave first.
        for i, slot in zip(reversed(new), reversed(slots), strict=True):
            self._host[pages[i]] = slot
        if self._path is None:
            if is_dirty:
                path = PagePath(NAMESPACE, names[:end], new[0])
                self._disk.put_batch(path, self._bytes.pages(path.num_pages))
            return
        # A page behind a gap may be there still; SGLang's tree has no gaps, and neither has this.
        assert new == list(range(new[0], new[0] + len(new)))
        keys = [name.hex() for name in names[: new[-1] + 1]]
        enter = self._path.computed if is_dirty else self._path.loaded
        enter(torch.tensor(slots), keys[new[0] :], keys[: new[0]])

    def _make_room(self, num_pages: int) -> None:
        short = num_pages - len(self._free)
        if short <= 0:
            return
        slots = [self._host.popitem(last=False)[1] for _ in range(short)]
        if self._path is not None:
            self._path.giving_up([torch.tensor(slots)])
        self._free += slots

    def _use_host(self, pages: Sequence[int]) -> None:
        for page in reversed(pages):
            if page in self._host:
                self._host.move_to_end(page)

    def _use_device(self, pages: Sequence[int], names: list[PageHash]) -> None:
        again = 0
        for page in reversed(pages):
            uses = self._device.get(page, 0) + 1
            self._device[page] = uses
            self._device.move_to_end(page)
            again += uses > 1
        while len(self._device) > self._num_device:
            self._device.popitem(last=False)
        if self._policy == "selective":
            self._take_in(pages, names, 0, again, is_dirty=True)

    def _idle_until(self, at_s: float) -> None:
        for _ in range(MAX_IDLE_STEPS):
            if self._now_s + STEP_S >= at_s or self._path is None:
                break
            self._now_s += STEP_S
            self._step()
        self._now_s = max(self._now_s, at_s)

    def _step(self) -> None:
        if self._path is not None:
            self._path.step(len(self._free))
            self._path.wait(DRAIN_TIMEOUT_S)

    def _name(self, page: int) -> PageHash:
        if page not in self._names:
            self._names[page] = hashlib.sha256(page.to_bytes(8, "big")).digest()
        return self._names[page]


class _OnePage:
    """A host pool whose pages all have the same memory, as nobody reads it."""

    page_bytes = PAGE_BYTES

    def __init__(self) -> None:
        memory = mmap.mmap(-1, PAGE_BYTES)
        self._page = (memoryview(memory),)

    def buffers(self, host_indices: torch.Tensor, num_pages: int) -> list[PageBuffer]:
        """See `HostPages.buffers`."""
        return self.pages(num_pages)

    def at(self, pages: Sequence[int]) -> list[PageBuffer]:
        """See `HostPages.at`."""
        return self.pages(len(pages))

    def pages(self, num_pages: int) -> list[PageBuffer]:
        """Return so many times the same page."""
        return [self._page] * num_pages


def _leading(pages: Sequence[int], held: "OrderedDict[int, int]") -> int:
    return next((i for i, page in enumerate(pages) if page not in held), len(pages))
