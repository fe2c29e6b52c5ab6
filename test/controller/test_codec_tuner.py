"""A store that is full: asked, weighed, encoded, and read back."""

import random
from pathlib import Path

import pytest
from sglang_lsm.controller.codec_choice import CODEC
from sglang_lsm.controller.senses import Senses
from sglang_lsm.controller.tuner import Tuner
from sglang_lsm.pages import PagePath
from sglang_lsm.store import Store
from support.devices import device
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import (
    SEGMENT_BYTES,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

DIRECTORY, PIECES, NUM_PAGES = Path("/store"), (65536,), 8
NUM_SEGMENTS = 24
ROOM_PAGES = NUM_SEGMENTS * SEGMENT_BYTES // 65536
OTHERS = {"index", "admission", *(f"log.{name}" for name in (
    "io_mode", "reader_threads", "io_bytes", "merge_bytes_per_s", "merge_policy"))}  # fmt: skip


class Server:
    """Asks for prompts of eight pages, computes what is not stored, and lets the store encode."""

    def __init__(self, *, working_set=1.3, mode="auto", fixed=OTHERS, idle_cpus=1.0, speed=5e6,
                 shrinks=True, **log_settings):  # fmt: skip
        self.disk, self.index_disk = FakeDisk(), FakeIndexDisk()
        self.disk.make_dir(DIRECTORY)
        self.config = small_config(NUM_SEGMENTS, **log_settings)
        self.open()
        self.random = random.Random(5)
        self.prompts = range(round(working_set * ROOM_PAGES / NUM_PAGES))
        self.shrinks, self.speed, self.events, self.now_s = shrinks, speed, [], 0.0
        senses = Senses(
            note=self.events.append, recompute_s_per_byte=lambda: 1 / self.speed,
            idle_cpus=lambda: idle_cpus, clock=lambda: self.now_s,
        )  # fmt: skip
        self.tuner = Tuner(self.store, device(), senses, mode=mode, fixed=fixed)

    def open(self):
        self.store = Store(
            DIRECTORY, self.config, fs=self.disk, open_index=self.index_disk.open,
            loads_behind=False,
        )  # fmt: skip
        self.namespace = self.store.register(fingerprint())

    def pages(self, path):
        if self.shrinks:
            return pages_of(path, PIECES)
        return [
            [memoryview(random.Random(page_hash).randbytes(PIECES[0]))]
            for page_hash in path.hashes[path.start :]
        ]

    def path_of(self, prompt):
        path = path_of(self.namespace, [prompt, *range(NUM_PAGES - 1)])
        # Of each sixteen pages one is in the sample, as it is of very many.
        numbers = range(prompt * NUM_PAGES, (prompt + 1) * NUM_PAGES)
        hashes = [h[:31] + bytes([37 * n % 256]) for h, n in zip(path.hashes, numbers, strict=True)]
        return PagePath(path.namespace, hashes)

    def ask(self, prompt):
        """Return how many pages were hits; all of them are right."""
        path = self.path_of(prompt)
        pages, out = self.pages(path), empty_pages(NUM_PAGES, PIECES)
        num_hits = self.store.get_batch(path, out)
        assert [joined(page) for page in out[:num_hits]] == [joined(p) for p in pages[:num_hits]]
        if num_hits < NUM_PAGES:
            rest = PagePath(path.namespace, path.hashes, num_hits)
            self.store.put_batch(rest, pages[num_hits:])
        return num_hits

    def serve(self, seconds, a_second=20, *, tunes=True):
        """Serve for some seconds; return the share of pages that were hits."""
        num_hits = 0
        for _ in range(seconds):
            for _ in range(a_second):
                num_hits += self.ask(self.random.choice(self.prompts))
                self.store._encode()
            self.now_s += 1.0
            if tunes:
                self.tuner.step()
        return num_hits / (seconds * a_second * NUM_PAGES)

    @property
    def codec(self):
        return self.store.config.log.codec

    def done(self):
        return [event["event"] for event in self.events if event["setting"] == CODEC]


@pytest.fixture
def served():
    servers = []

    def build(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield build
    for server in servers:
        server.store.close()


def until(server, codec, limit_s=40):
    while server.codec != codec:
        assert server.now_s < limit_s
        server.serve(1)


def test_a_working_set_a_third_larger_than_the_room_fits_once_it_is_encoded(served):
    server = served()
    server.serve(5)
    before = server.serve(5)
    until(server, "idle")
    server.serve(12)
    after = server.serve(6)
    assert server.done() == ["changed", "kept"]
    assert server.store.stats().pages_encoded > ROOM_PAGES
    assert before < 0.8 and after > 0.95


def test_what_it_saw_and_what_it_promised_is_written_down(served):
    server = served()
    until(server, "idle")
    (entry,) = [event for event in server.events if event["setting"] == CODEC]
    assert (entry["old"], entry["new"]) == ("off", "idle")
    assert entry["seen"]["encoded_hits"] > 0
    assert entry["predicted"]["before"]["total_s"] > entry["predicted"]["after"]["total_s"]


@pytest.mark.parametrize(
    ("why", "options"),
    [
        ("all fits", {"working_set": 0.7}),
        ("nothing comes back", {"working_set": 1e6}),
        ("pages do not shrink", {"shrinks": False}),
        ("no CPU is idle", {"idle_cpus": 0.0}),
        ("computing costs less than reading", {"speed": 1e12}),
        ("what computing costs is not known", {"speed": float("inf")}),
        ("the operator has said off", {"fixed": {*OTHERS, "log.codec"}}),
        ("the operator has set the log", {"fixed": {"log", "index", "admission"}}),
    ],
)
def test_it_is_not_chosen_where(served, why, options):
    server = served(**options)
    server.serve(25)
    assert server.done() == [], why
    assert server.store.stats().pages_encoded == 0


def test_what_the_operator_encodes_stays_encoded(served):
    server = served(working_set=0.7, codec="idle")
    server.serve(10)
    assert server.done() == [] and server.codec == "idle"


def test_observe_says_what_it_would_do_and_encodes_nothing(served):
    server = served(mode="observe")
    server.serve(40)
    assert server.done() == ["would change"]
    assert server.codec == "off" and server.store.stats().pages_encoded == 0


def test_it_is_given_up_where_encoded_pages_bring_nothing_and_they_stay_readable(served):
    """What came back comes back no more; what is read was encoded, and is decoded each time."""
    server = served()
    until(server, "idle")
    server.serve(6)
    server.prompts = range(10_000, 100_000)
    server.speed = 1e12
    until(server, "off", limit_s=400)
    assert server.done()[-1] == "rolled back"
    num_encoded = server.store.stats().pages_encoded
    server.prompts = range(10_000, 10_030)
    server.serve(5)
    assert server.store.stats().pages_encoded == num_encoded


def test_switched_off_live_and_opened_anew_encoded_pages_are_read_as_they_were_put(served):
    server = served()
    until(server, "idle")
    server.serve(3)
    server.store.tune(server.config)
    assert server.codec == "off"
    before = server.store.stats()
    server.serve(2, tunes=False)
    assert server.store.stats().pages_encoded == before.pages_encoded
    assert server.store.stats().pages_decoded > before.pages_decoded
    server.store.close()
    server.open()
    assert sum(server.ask(prompt) for prompt in server.prompts) > 0
    assert server.store.stats().pages_decoded > 0


def test_a_change_that_is_tried_meanwhile_is_not_disturbed_and_takes_nothing_back(served):
    """Each setting is taken back by itself: the settings of before a trial had another codec."""
    server = served(fixed=OTHERS - {"log.io_mode"})
    until(server, "idle", limit_s=80)
    server.serve(10)
    rolled_back = [e for e in server.events if e["event"] in ("rolled back", "taken back")]
    assert all(event["setting"] != CODEC for event in rolled_back)
    assert server.codec == "idle"
