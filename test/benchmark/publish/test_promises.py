"""A promise is met exactly when the median reaches its target, and never without a figure."""

from hypothesis import given
from hypothesis import strategies as st

from benchmark.harness import summarize
from benchmark.publish.promise import Promise
from benchmark.publish.promises import promise_table, promises

speeds = st.floats(0.01, 100.0)


@given(seen=st.lists(speeds, min_size=1, max_size=5), target=speeds, at_least=st.booleans())
def test_verdict_follows_the_median(seen: list[float], target: float, at_least: bool) -> None:
    found = summarize(seen)
    one = Promise("x", "y", target, at_least, found)
    good = found.median >= target if at_least else found.median <= target
    assert one.verdict == ("met" if good else "MISSED")


def test_without_results_nothing_is_met() -> None:
    found = promises({})
    assert {one.verdict for one in found} == {"not run"}
    assert len({one.key for one in found}) == len(found)


def test_a_ratio_is_taken_over_the_better_mode(report) -> None:
    speeds = {"store_auto": 6.0, "blobdb": 1.0, "blobdb_wal": 3.0, "hicache_file": 0.25}
    found = {one.key: one for one in promises({"engine": report(speeds)})}
    blobdb = found["BlobDB, its better mode | cold get, 64 KiB"]
    assert (blobdb.seen.median, blobdb.verdict) == (2.0, "MISSED")
    file = found["HiCacheFile | put+durable, 64 KiB"]
    assert (file.seen.median, file.verdict) == (24.0, "met")
    assert found["itself | CPU cold get, 64 KiB"].verdict == "MISSED"
    assert found["itself | CPU cold get, 1 MiB"].verdict == "not run"


def test_a_miss_shows_its_cause_or_that_none_is_known() -> None:
    rows = [Promise("a", "b", 2.0, True, summarize([1.0])), Promise("c", "d", 2.0, True, None)]
    told = promise_table(rows, {"a | b": "the disk is slow", "c | d": "never shown"})
    assert "the disk is slow" in told
    assert "never shown" not in told
    assert "cause not written down" in promise_table(rows, {})
