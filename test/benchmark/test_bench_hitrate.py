import gzip
import io
import itertools
import json
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_lsm.eviction.places import length_units

from benchmark import bench_hitrate
from benchmark.bench_hitrate import OPTIMUM, Result, capacity_of, complaints, replay
from benchmark.publish import hits as hits_section
from benchmark.publish.serving_promises import serving_promises
from benchmark.replay import traces
from benchmark.replay.caches import FileEvictor, LibCacheSim, LsmEvictor, Outcome, PageLru, Room
from benchmark.replay.optimum import Optimum


def requests_of(texts):
    """Requests over a small alphabet, as page numbers that stand for prefixes."""
    numbers = {}
    return [
        [numbers.setdefault(text[: i + 1], len(numbers)) for i in range(len(text))]
        for text in texts
    ]


REQUESTS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=30).map(
    requests_of
)


def best_hits(requests, capacity):
    """The most hits over all ways to choose what to keep after each request."""
    states = {frozenset(): 0}
    for request in requests:
        after = {}
        for stored, hits in states.items():
            hits += traces.leading(request, stored)
            offered = sorted(stored | set(request))
            for kept in itertools.combinations(offered, min(capacity, len(offered))):
                kept = frozenset(kept)
                after[kept] = max(after.get(kept, 0), hits)
        states = after
    return max(states.values())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6).map(requests_of),
    st.integers(1, 4),
)
def test_optimum_is_the_best_of_all_ways(requests, capacity):
    result = replay(OPTIMUM, Optimum(requests, capacity), requests, 1.0)
    assert result.hits == best_hits(requests, capacity)
    assert result.found == result.hits


@settings(deadline=None)
@given(REQUESTS, st.integers(1, 20))
def test_no_cache_beats_the_optimum(requests, capacity):
    best = replay(OPTIMUM, Optimum(requests, capacity), requests, 1.0).hits
    caches = [FileEvictor(capacity), PageLru(capacity)]
    caches += [LsmEvictor(capacity, learn=learn) for learn in (False, True)]
    for cache in caches:
        assert replay("", cache, requests, 1.0).hits <= best


@settings(deadline=None)
@given(REQUESTS)
def test_a_cache_without_limit_has_the_ideal(requests):
    ideal = traces.ideal_hits(requests)
    capacity = traces.num_distinct(requests)
    for cache in (PageLru(capacity), LsmEvictor(capacity, learn=True), Optimum(requests, capacity)):
        assert replay("", cache, requests, 1.0).hits == ideal


@settings(deadline=None, max_examples=30)
@given(REQUESTS, st.integers(1, 20))
def test_page_lru_is_that_of_libcachesim(requests, capacity):
    ours = replay("", PageLru(capacity), requests, 1.0)
    assert replay("", LibCacheSim("LRU", capacity), requests, 1.0) == ours


class RealFileEvictor:
    """SGLang's own evictor over real files of one byte, called as `HiCacheFile` calls it."""

    def __init__(self, evictor, directory):
        self.evictor, self.directory = evictor, directory

    def request(self, pages):
        paths = [self.directory / f"{page}_own.bin" for page in pages]
        hits = next((i for i, path in enumerate(paths) if not path.exists()), len(paths))
        found = 0
        for path in paths:
            if path.exists():
                self.evictor.touch(path.stem, str(path))
                found += 1
            elif self.evictor.reserve(path.stem, 1):
                path.write_bytes(b"x")
                self.evictor.commit(path.stem)
        return Outcome(hits, found, len(pages) - found)


@pytest.mark.parametrize("capacity", [3, 10, 25])
def test_file_evictor_behaves_as_the_real_one(tmp_path, capacity):
    module = pytest.importorskip("sglang.srt.mem_cache.storage.file.lru_file_evictor")
    real = module.LRUFileEvictor(
        str(tmp_path), owned_suffixes=("_own",), tp_rank=0, extra_config={"max_size": capacity}
    )
    texts = ["".join("abc"[(i * i + j) % 3] for j in range(1 + i % 6)) for i in range(200)]
    texts += [f"{i % 17}{i % 5}" for i in range(300)]
    requests = requests_of(texts)
    ours = FileEvictor(capacity)
    for request in requests:
        assert RealFileEvictor(real, tmp_path).request(request) == ours.request(request)
        assert {path.stem for path in tmp_path.glob("*.bin")} == {f"{p}_own" for p in ours._pages}


def result(policy, hits, *, share=0.1, found=0):
    return Result(
        policy=policy, share=share, capacity=1, asked=1000, hits=hits, found=found, written=1
    )


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ([result("ours", 11), result(OPTIMUM, 10)], "beats the optimum"),
        ([result("ours", 9, share=1.0)], "differs from the ideal"),
        ([result("page LRU", 5, found=5), result("LRU (libcachesim)", 5, found=9)], "libcachesim"),
    ],
)
def test_checks_notice(results, complaint):
    (found,) = complaints(results, ideal=10)
    assert complaint in found


def mooncake_lines():
    rows = [{"timestamp": 5, "hash_ids": [0, 1]}, {"timestamp": 1, "hash_ids": [0]}]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("packed", [False, True])
def test_mooncake_form_in_order_of_time(tmp_path, packed):
    path = tmp_path / ("trace.jsonl.gz" if packed else "trace.jsonl")
    path.write_bytes(gzip.compress(mooncake_lines()) if packed else mooncake_lines())
    assert traces.load(path) == [[0], [0, 1]]


def agent_trace(tmp_path):
    path = tmp_path / "agents.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for session, start in (("one", 0), ("two", 100)):
            for turn in range(2):
                text = session * 100 * (turn + 1)
                row = {"timestamp": start + turn, "session_id": session, "input": text}
                data = json.dumps(row).encode()
                member = tarfile.TarInfo(f"some/{session}{turn}.jsonl")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def test_agent_form_shares_prefixes(tmp_path):
    assert traces.load(agent_trace(tmp_path), folder="some") == [[0], [0, 1], [2], [2, 3]]


def test_agent_sessions_at_once(tmp_path):
    requests = traces.load(agent_trace(tmp_path), sessions=2)
    assert [len(request) for request in requests] == [1, 1, 2, 2]


@settings(deadline=None)
@given(REQUESTS, st.integers(1, 20))
def test_where_pages_are_encoded_their_bytes_hold(requests, capacity):
    cache = LsmEvictor(capacity, learn=True, room=Room(16, 11))
    ideal = traces.ideal_hits(requests)
    assert replay("", cache, requests, 1.0).hits <= ideal
    rows = cache.table.live_rows()
    assert length_units(cache.table.place[rows]).sum() <= 16 * capacity
    plenty = LsmEvictor(traces.num_distinct(requests), learn=True, room=Room(16, 11))
    assert replay("", plenty, requests, 1.0).hits == ideal


def test_encoded_pages_make_room_for_more():
    """Requests in turn for one page more than fit: encoded, they all do."""
    requests = [[page] for page in range(12)] * 8
    plain = LsmEvictor(11, learn=False)
    encoded = LsmEvictor(11, learn=False, room=Room(16, 11))
    assert replay("", plain, requests, 1.0).hits == 0
    result = replay("", encoded, requests, 1.0)
    assert result.hits == 12 * 7
    assert len(encoded.table) == 12
    # A page that is written a second time counts as the part of a page that it takes.
    assert 12 < result.written <= 12 * (1 + 11 / 16)


def test_the_row_with_encoded_pages_says_what_was_measured(tmp_path, monkeypatch, capsys):
    trace, output = tmp_path / "trace.jsonl", tmp_path / "figures.json"
    rows = [{"timestamp": i, "hash_ids": [i % 7, 10 + i % 7]} for i in range(60)]
    trace.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(bench_hitrate, "measured_room", lambda: Room(360, 247))
    assert bench_hitrate.main([os.fspath(trace), "--codec", "--json", os.fspath(output)]) == 0
    report = json.loads(output.read_text())
    assert report["codec_blocks"] == [360, 247]
    assert bench_hitrate.ENCODED in {result["policy"] for result in report["results"]}
    assert "247 blocks instead of 360, 0.686" in capsys.readouterr().out
    assert "0.686" in hits_section.body(report)
    promised = [p for p in serving_promises({"hitrate-x": report}) if "encoded" in p.what]
    assert len(promised) == 3


def test_runs_and_writes_its_figures(tmp_path, capsys):
    trace, output = tmp_path / "trace.jsonl", tmp_path / "figures.json"
    requests = requests_of(["abab", "abba", "abab", "bb", "abbaa"] * 3)
    lines = [
        json.dumps({"timestamp": i, "hash_ids": request}) for i, request in enumerate(requests)
    ]
    trace.write_text("\n".join(lines))
    assert bench_hitrate.main([os.fspath(trace), "--ablate", "--json", os.fspath(output)]) == 0
    report = json.loads(output.read_text())
    assert not report["complaints"]
    shown = {result["policy"] for result in report["results"]}
    small = {name for name in bench_hitrate.POLICIES if not bench_hitrate.fits(name, 1)}
    assert shown == {*bench_hitrate.POLICIES, *bench_hitrate.ABLATIONS, OPTIMUM} - small
    assert "hit rate" in capsys.readouterr().out
    assert capacity_of(requests, 0.001) == 1
