"""The store against plain sets, on a disk that fails, fills up, dies and loses power.

Every choice, the torn writes of a power loss included, is drawn by Hypothesis: the blob that a
failure prints replays it. `HYPOTHESIS_PROFILE=deep` runs far more of the same.
"""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.store_model import LARGE_PAGES, SMALL_PAGES, StoreModel

namespaces = st.sampled_from([SMALL_PAGES, LARGE_PAGES])
branches = st.lists(st.integers(0, 3), min_size=1, max_size=6)
seeds = st.integers(0, 1 << 32)


@st.composite
def calls(draw):
    """A namespace, a path, and where the call starts. Long trunks make paths cross group cuts."""
    namespace = draw(namespaces)
    trunk = draw(st.sampled_from([0, 0, 1, 61, 63, 64])) if namespace == SMALL_PAGES else 0
    tokens = (*[0] * trunk, *draw(branches))
    start = draw(st.integers(0, len(tokens) - 1)) if draw(st.booleans()) else 0
    return namespace, Path(tokens), start


class Path(tuple):
    """Tokens, printed shortly: a failure shows what differs, not the trunk."""

    def __repr__(self) -> str:
        num_zeros = next((i for i, token in enumerate(self) if token), len(self) - 1)
        return f"Path([0] * {num_zeros} + {list(self[num_zeros:])})"


class StoreMachine(RuleBasedStateMachine):
    """No wrong byte, ever; nothing lost without a cause; the quota held after every step."""

    @initialize(can_punch=st.booleans(), num_segments=st.integers(4, 6))
    def start(self, can_punch, num_segments):
        self.model = StoreModel(num_segments=num_segments, can_punch=can_punch)
        self.num_fills = 0

    @rule(call=calls())
    def put(self, call):
        self.model.put(*call)
        self.model.check()

    @rule(num_pages=st.integers(1, 24))
    def put_fresh(self, num_pages):
        """Put fresh pages until older ones have to go."""
        self.fill(num_pages)
        self.model.check()

    @rule(call=calls())
    def get(self, call):
        self.model.get(*call, faulty=False)

    @rule(call=calls())
    def probe(self, call):
        self.model.probe(*call)

    @rule(call=calls())
    def delete_subtree(self, call):
        self.model.delete_subtree(*call[:2])

    @rule(namespace=namespaces)
    def clear(self, namespace):
        self.model.clear(namespace)

    @rule(
        call=calls(), pinned=st.booleans(), priority=st.integers(0, 3),
        ttl_s=st.none() | st.integers(0, 20),
    )  # fmt: skip
    def hold(self, call, pinned, priority, ttl_s):
        self.model.refused(
            lambda: self.model.hold(*call[:2], pinned=pinned, priority=priority, ttl_s=ttl_s)
        )
        self.model.advance(0)
        self.model.check()

    @rule(call=calls())
    def release(self, call):
        self.model.hold(*call[:2], pinned=False, priority=0, ttl_s=None)

    @rule(num_seconds=st.integers(0, 20))
    def time_goes_by(self, num_seconds):
        self.model.advance(num_seconds)
        self.model.check()

    @rule()
    def upkeep(self):
        self.model.store._upkeep()
        self.model.check()

    @rule(call=calls(), num_changes=st.integers(0, 6), seed=st.none() | seeds)
    def end_during_upkeep(self, call, num_changes, seed):
        """A process that dies while it forgets what has expired begins again."""
        self.model.hold(*call[:2], pinned=False, priority=0, ttl_s=1)
        self.model.advance(1)
        num_evicted = self.model.until_crash(num_changes, self.model.store._upkeep)
        if seed is None:
            self.model.kill()
        else:
            self.model.lose_power(seed)
        self.model.check(num_uncounted=num_evicted)

    @rule(call=calls())
    def merge(self, call):
        self.model.merge(*call)
        self.model.check()

    @rule(call=calls(), num_changes=st.integers(0, 12), seed=st.none() | seeds)
    def end_during_merge(self, call, num_changes, seed):
        num_evicted = self.model.until_crash(num_changes, lambda: self.model.merge(*call))
        if seed is None:
            self.model.kill()
        else:
            self.model.lose_power(seed)
        self.model.check(num_uncounted=num_evicted)

    @rule(num_pages=st.integers(1, 12), num_bytes=st.integers(1, 1 << 20))
    def encode(self, num_pages, num_bytes):
        """Store fresh pages, and make them and others smaller."""
        self.fill(num_pages)
        self.model.encode(num_bytes)
        self.model.check()
        self.model.read_all()

    @rule(num_pages=st.integers(1, 12), num_changes=st.integers(0, 12), seed=st.none() | seeds)
    def end_during_encode(self, num_pages, num_changes, seed):
        self.fill(num_pages)
        # The process that made room for them is asked before it ends.
        self.model.check()
        num_evicted = self.model.until_crash(num_changes, lambda: self.model.encode(1 << 20))
        if seed is None:
            self.model.kill()
        else:
            self.model.lose_power(seed)
        self.model.check(num_uncounted=num_evicted)

    def fill(self, num_pages):
        self.num_fills += 1
        first = 1000 * self.num_fills
        self.model.put(LARGE_PAGES, tuple(range(first, first + num_pages)), 0)

    @rule()
    def read_all(self):
        self.model.read_all()

    @rule()
    def sync(self):
        self.model.sync()

    @rule()
    def reopen(self):
        self.model.store.close()
        self.model.open()
        self.model.check()

    @rule()
    def kill(self):
        self.model.kill()
        self.model.check()

    @rule(call=calls(), num_changes=st.integers(0, 12))
    def kill_during_put(self, call, num_changes):
        num_evicted = self.model.until_crash(
            num_changes, lambda: self.model.put(*call, faulty=True)
        )
        self.model.kill()
        self.model.check(num_uncounted=num_evicted)

    @rule(seed=seeds)
    def lose_power(self, seed):
        self.model.lose_power(seed)
        self.model.check()

    @rule(call=calls(), num_changes=st.integers(0, 12), seed=seeds)
    def lose_power_during_put(self, call, num_changes, seed):
        num_evicted = self.model.until_crash(
            num_changes, lambda: self.model.put(*call, faulty=True)
        )
        self.model.lose_power(seed)
        self.model.check(num_uncounted=num_evicted)

    @rule(num_changes=st.integers(0, 12))
    def kill_during_open(self, num_changes):
        self.model.disk.kill()
        num_evicted = self.model.until_crash(num_changes, self.model.open)
        self.model.kill()
        self.model.check(num_uncounted=num_evicted)

    @rule(damaged=st.booleans())
    def lose_index(self, damaged):
        self.model.lose_index(damaged=damaged)
        self.model.check()

    @precondition(lambda self: self.model.present)
    @rule(data=st.data())
    def damage_a_page(self, data):
        page = data.draw(st.sampled_from(sorted(self.model.present)))
        self.model.damage(page)
        self.model.get(*page, len(page[1]) - 1, faulty=False)

    @rule(call=calls(), free_bytes=st.integers(0, 3 << 20))
    def put_on_a_full_disk(self, call, free_bytes):
        disk = self.model.disk
        disk.foreign_bytes = max(0, disk.capacity_bytes - disk.used_bytes() - free_bytes)
        self.model.refused(lambda: self.model.put(*call, faulty=True))
        disk.foreign_bytes = 0
        self.model.check()

    @rule(
        call=calls(), fault=st.sampled_from(["pwritev", "allocate", "open", "truncate", "unlink"])
    )
    def put_on_a_failing_disk(self, call, fault):
        self.model.disk.failing = {fault}
        self.model.refused(lambda: self.model.put(*call, faulty=True))
        self.model.disk.failing = set()
        self.model.check()

    @rule(call=calls())
    def put_on_a_read_only_disk(self, call):
        self.model.disk.read_only = True
        self.model.refused(lambda: self.model.put(*call, faulty=True))
        self.model.disk.read_only = False
        self.model.check()

    @rule(call=calls())
    def get_from_a_failing_disk(self, call):
        """An I/O error hides a page; it does not lose it."""
        self.model.disk.failing = {"preadv"}
        self.model.get(*call, faulty=True)
        self.model.disk.failing = set()
        self.model.check()

    @rule(call=calls())
    def put_while_the_index_fails(self, call):
        self.model.index_disk.failing = True
        assert self.model.refused(lambda: self.model.put(*call, faulty=True))
        self.model.index_disk.failing = False
        self.model.wait()
        self.model.check()

    @invariant()
    def quota_is_held(self):
        if hasattr(self, "model"):
            self.model.check_quota()

    def teardown(self):
        if hasattr(self, "model"):
            self.model.store.close()


StoreMachine.TestCase.settings = settings(
    max_examples=max(40, settings.default.max_examples // 2), stateful_step_count=30
)
test_store_model = StoreMachine.TestCase
