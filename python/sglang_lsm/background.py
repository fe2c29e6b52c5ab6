"""What a store does with its pages beside serving: merging and encoding, at bounded rates."""

import time

from sglang_lsm.catalog import Catalog
from sglang_lsm.config import StoreConfig
from sglang_lsm.copying import Copier
from sglang_lsm.encoding import PageEncoder
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.merge import Merger
from sglang_lsm.observability.counters import Counters
from sglang_lsm.room import Room
from sglang_lsm.segment_merge import SegmentMerger
from sglang_lsm.tensorlog.log import TensorLog

MERGE_INTERVAL_S = 1.0
ENCODE_INTERVAL_S = 0.25
"""Short, so that a step of it delays a call that comes meanwhile by some ms."""


class Background:
    """The jobs of one store, each for one thread."""

    def __init__(
        self, index: PageIndex, log: TensorLog, catalog: Catalog, room: Room, counters: Counters
    ) -> None:
        """Begin with nothing to do."""
        self._counters = counters
        copier = Copier(index, log, catalog, counters)
        self.merger = Merger(index, copier)
        self.encoder = PageEncoder(catalog, log, copier, room)
        self._segments = SegmentMerger(catalog, log, copier)

    def merge(self, config: StoreConfig) -> None:
        """Merge segments that have to make room, and what was read scattered.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        limit = int(config.log.merge_bytes_per_s * MERGE_INTERVAL_S)
        started_s = time.perf_counter()
        made = self._segments.run(limit, config)
        num_bytes = made.num_bytes + self.merger.run(limit - made.num_bytes, config.log)
        self._counters.add(pages_evicted=made.num_evicted)
        if num_bytes:
            self._counters.add(bytes_merged=num_bytes, merge_s=time.perf_counter() - started_s)

    def encode(self, config: StoreConfig) -> None:
        """Encode pages that wait, one step. Raises as `merge`."""
        started_s = time.perf_counter()
        if self.encoder.run(int(config.log.codec_bytes_per_s * ENCODE_INTERVAL_S), config):
            self._counters.add(encode_s=time.perf_counter() - started_s)
