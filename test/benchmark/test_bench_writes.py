"""Laws of the three tiers, and that the benchmark notices when one is broken."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.bench_writes import VARIANTS, complaints, replay, tables_of
from benchmark.replay import traces
from benchmark.replay.traces import Arrival

conversations = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 9), st.floats(0.1, 40.0)), min_size=1, max_size=40
)


def arrivals_of(turns):
    """Conversation `c` of `n` pages: its first page is everybody's."""
    now, arrivals = 0.0, []
    for conversation, length, pause in turns:
        now += pause
        pages = [0, *(100 * (conversation + 1) + i for i in range(length))]
        arrivals.append(Arrival(now, pages))
    return arrivals


@settings(max_examples=20, deadline=None)
@given(turns=conversations, share=st.sampled_from([0.5, 1.0, 3.0]))
def test_whatever_comes_the_tiers_agree_with_what_must_hold(turns, share):
    arrivals = arrivals_of(turns)
    results = [replay(variant, arrivals, share, math.inf) for variant in VARIANTS]
    assert not list(complaints(results))
    by_name = {result.variant: result.served for result in results}
    assert by_name["evict, all kinds"].written <= by_name["through"].written
    assert len({served.device for served in by_name.values()}) == 1
    assert all(served.hit_rate <= 1.0 for served in by_name.values())


def test_in_memory_that_holds_all_nothing_that_leaves_is_written():
    arrivals = arrivals_of([(c, 5, 1.0) for c in range(4)] * 3)
    (variant,) = [v for v in VARIANTS if v.name == "evict, only what leaves"]
    served = replay(variant, arrivals, 3.0, math.inf).served
    assert (served.written, served.disk) == (0, 0)
    asked = [arrival.pages for arrival in arrivals]
    assert served.device + served.host == traces.ideal_hits(asked)


@pytest.mark.parametrize("disk", [math.inf, 100.0])
def test_the_shipped_store_serves_what_the_endless_disk_does(disk):
    arrivals = arrivals_of([(c, 8, 1.0) for c in range(6)] * 4)
    through = VARIANTS[0]
    served = replay(through, arrivals, 0.5, disk).served
    assert served.hit_rate == replay(through, arrivals, 0.5, math.inf).served.hit_rate
    assert served.disk > 0


def test_a_kill_leaves_all_that_was_written_through_and_less_of_what_was_not():
    arrivals = arrivals_of([(c, 8, 1.0) for c in range(6)] * 4)
    by_name = {v.name: replay(v, arrivals, 3.0, math.inf).served for v in VARIANTS}
    assert by_name["through"].kept == by_name["through"].useful > 0
    # Memory holds all, so nothing leaves it.
    assert by_name["evict, only what leaves"].kept == 0
    assert by_name["evict, only what leaves"].useful == by_name["through"].useful


def test_what_is_impossible_is_noticed():
    arrivals = arrivals_of([(c, 8, 1.0) for c in range(6)] * 4)
    good = replay(VARIANTS[0], arrivals, 0.5, math.inf)
    (shown,) = tables_of([good])
    assert shown["rows"][0][0] == "through" and len(shown["rows"][0]) == len(shown["head"])
    served = type(good.served)(
        asked=10, device=1, host=1, disk=5, written=1, needed=5, figures=None
    )
    bad = type(good)(variant="through", memory_share=0.5, disk_per_memory=1.0, served=served)
    assert list(complaints([bad]))
