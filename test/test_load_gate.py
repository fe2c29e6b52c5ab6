"""The load gate: what is loaded is never predicted to be slower than computing it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.load_gate import (
    FORGET_LOAD_S,
    MAX_WAITING,
    LoadGate,
    Speeds,
    pages_worth_loading,
)
from sglang_lsm.pages import NamespaceId, PagePath

PAGE_TOKENS, PAGE_BYTES = 64, 1 << 20
hits = st.integers(0, 5000)
seconds = st.floats(1e-6, 10.0)
known = st.builds(Speeds, read_s=seconds, compute_s=seconds)
speeds = known | st.builds(Speeds, read_s=st.none() | seconds, compute_s=st.none() | seconds)
queues = st.integers(0, 5000)
limits = st.floats(0.0, 100.0) | st.just(float("inf"))


@given(hits, speeds, queues, limits)
def test_never_more_than_the_hits(num_hits, measured, num_queued, limit_s):
    num_pages = pages_worth_loading(num_hits, measured, num_queued=num_queued, limit_s=limit_s)
    assert 0 <= num_pages <= num_hits


@given(hits, known, queues, st.just(0.0) | seconds, limits)
def test_what_is_loaded_is_not_slower_than_computing_it_and_arrives_in_time(
    num_hits, measured, num_queued, compute_wait_s, limit_s
):
    num_pages = pages_worth_loading(
        num_hits, measured, num_queued=num_queued, compute_wait_s=compute_wait_s, limit_s=limit_s
    )
    if num_pages:
        load_s = (num_queued + num_pages) * measured.read_s
        assert load_s <= compute_wait_s + num_pages * measured.compute_s
        assert load_s <= limit_s * (1 + 1e-9)


@given(hits, known, queues, limits, st.floats(0.0, 1.0))
def test_a_faster_disk_loads_no_less(num_hits, measured, num_queued, limit_s, share):
    faster = Speeds(read_s=measured.read_s * share, compute_s=measured.compute_s)
    before, after = (
        pages_worth_loading(num_hits, speed, num_queued=num_queued, limit_s=limit_s)
        for speed in (measured, faster)
    )
    assert after >= before


@given(hits, known, queues, queues, limits)
def test_a_shorter_queue_loads_no_less(num_hits, measured, one, other, limit_s):
    shorter, longer = (
        pages_worth_loading(num_hits, measured, num_queued=n, limit_s=limit_s)
        for n in sorted((one, other))
    )
    assert shorter >= longer


@given(hits, known, queues)
def test_a_slower_prefill_loads_no_less(num_hits, measured, num_queued):
    slower = Speeds(read_s=measured.read_s, compute_s=2 * measured.compute_s)
    before, after = (
        pages_worth_loading(num_hits, speed, num_queued=num_queued) for speed in (measured, slower)
    )
    assert after >= before


@given(hits, known, queues, seconds)
def test_a_busier_prefill_loads_no_less(num_hits, measured, num_queued, compute_wait_s):
    before, after = (
        pages_worth_loading(num_hits, measured, num_queued=num_queued, compute_wait_s=wait_s)
        for wait_s in (0.0, compute_wait_s)
    )
    assert after >= before


@given(hits, known)
def test_without_a_queue_the_faster_of_the_two_is_taken(num_hits, measured):
    is_faster = measured.read_s <= measured.compute_s
    assert pages_worth_loading(num_hits, measured) == (num_hits if is_faster else 0)


def test_others_wait_for_the_pages_that_could_have_been_loaded_only():
    """Of 100 pages ten arrive in time, after 2 s: no reason not to compute them in 0.2, though all
    hundred would make others wait for 10 s."""
    speeds = Speeds(read_s=0.02, compute_s=0.02)
    queue = {"num_queued": 90, "others_wait_s": 10.0}
    assert pages_worth_loading(100, speeds, **queue, limit_s=2.0) == 0
    assert pages_worth_loading(100, speeds, **queue) == 100


@given(hits, st.sampled_from([Speeds(), Speeds(compute_s=1e-9), Speeds(read_s=10.0)]))
def test_what_was_not_measured_is_loaded(num_hits, measured):
    assert pages_worth_loading(num_hits, measured) == num_hits


def path(num_pages, *, start=0, branch=b"a"):
    return PagePath(
        NamespaceId(bytes(8)),
        [branch + i.to_bytes(32 - len(branch), "big") for i in range(num_pages)],
        start,
    )


class Bench:
    """A gate on a clock of its own, and a disk and a model of given speeds."""

    def __init__(self, *, read_s, compute_s, limit_s=float("inf")):
        self.now_s, self.read_s = 1000.0, read_s
        self.gate = LoadGate(
            page_tokens=PAGE_TOKENS,
            page_bytes=PAGE_BYTES,
            wait_limit_s=lambda _: limit_s,
            clock=lambda: self.now_s,
        )
        for num_pages in (20, 80, 40):
            self.gate.observe_prefill(
                num_tokens=num_pages * PAGE_TOKENS, seconds=0.1 + num_pages * compute_s
            )

    def read(self, asked):
        """Read a call of so many pages at the gate's pace; return how many it let through."""
        pace, done = self.gate.begin(asked), 0
        while done < asked.num_pages:
            left = asked.num_pages - done
            part = pace.next_pages(left, left * PAGE_BYTES)
            if not part:
                break
            self.now_s += part * self.read_s
            pace.was_read(part, part * self.read_s)
            done += part
        return done

    def load(self, asked):
        """Ask for a hit and read what is granted, as SGLang does; return how much was."""
        num_pages = self.gate.grant(asked, asked.num_pages)
        if not num_pages:
            return 0
        return self.read(PagePath(asked.namespace, asked.hashes[: asked.start + num_pages],
                                  asked.start))  # fmt: skip


def test_a_fast_disk_is_read_to_the_end():
    bench = Bench(read_s=0.001, compute_s=0.01)
    for _ in range(5):
        assert bench.load(path(300)) == 300
    figures = bench.gate.figures()
    assert (figures.pages_found, figures.pages_declined, figures.pages_cut) == (1500, 0, 0)


def test_a_slow_disk_is_noticed_after_a_small_first_part_and_left_alone_afterwards():
    bench = Bench(read_s=1.0, compute_s=0.01)
    assert bench.load(path(300)) == 4
    assert bench.load(path(300)) == 0
    figures = bench.gate.figures()
    assert (figures.pages_cut, figures.pages_declined, figures.attempts) == (296, 300, 0)


def test_a_disk_that_becomes_slow_costs_little():
    bench = Bench(read_s=0.001, compute_s=0.01)
    for _ in range(5):
        bench.load(path(300))
    bench.read_s = 1.0
    assert bench.load(path(300)) == 4


def test_a_disk_that_recovers_is_noticed():
    bench = Bench(read_s=0.5, compute_s=0.01)
    bench.load(path(300))
    bench.read_s = 0.001
    assert bench.load(path(300)) == 0
    bench.now_s += 1000.0
    assert bench.load(path(300)) == 300
    assert bench.load(path(300)) == 300
    assert bench.gate.figures().attempts == 1


@given(read_s=st.floats(0.02, 5.0), num_requests=st.integers(2, 60))
def test_attempts_on_a_slow_disk_take_little_of_the_time(read_s, num_requests):
    bench = Bench(read_s=read_s, compute_s=0.01)
    bench.load(path(300))
    started_s, spent_s = bench.now_s, 0.0
    for _ in range(num_requests):
        before_s = bench.now_s
        bench.load(path(300))
        spent_s += bench.now_s - before_s
        bench.now_s += 5.0
    longest_s = 4 * read_s
    assert spent_s <= 0.011 * (bench.now_s - started_s) + longest_s


def test_a_burst_is_not_granted_more_than_its_turn_is_worth():
    bench = Bench(read_s=0.009, compute_s=0.01)
    bench.load(path(300))
    granted = [bench.gate.grant(path(300, branch=bytes([i])), 300) for i in range(2)]
    # The second would wait for the first for longer than computing takes.
    assert granted == [300, 0]
    assert bench.read(path(300, branch=b"\0")) == 300
    assert bench.gate.grant(path(300, branch=b"\1"), 300) == 300


def test_of_a_burst_what_is_behind_a_declined_hit_is_loaded_while_that_is_computed():
    """Computing 64 pages takes 6.4 s, which three loads of 1.664 s would wait for, 9.2 s in sum:
    the tenth hit, after 16.6 s, is computed, and the next ones are loaded meanwhile."""
    bench = Bench(read_s=0.026, compute_s=0.1)
    bench.load(path(64))
    granted = [bench.gate.grant(path(64, branch=bytes([i])), 64) for i in range(12)]
    assert granted == [*([64] * 9), 0, 64, 64]
    # What was computed is not waited for any more.
    bench.now_s += FORGET_LOAD_S + 10.0
    again = [bench.gate.grant(path(64, branch=bytes([100 + i])), 64) for i in range(10)]
    assert again == [*([64] * 9), 0]


def mean_wait_s(granted, *, load_s, compute_s):
    """Of hits that come at once: one disk reads the loads in turn, one device computes the others,
    whoever is ready first, and goes on from what was loaded at once."""
    num_loads = sum(map(bool, granted))
    ready = [(load_s * (i + 1), 0.0) for i in range(num_loads)]
    ready += [(0.0, compute_s)] * (len(granted) - num_loads)
    now_s, waited_s = 0.0, 0.0
    for ready_s, takes_s in sorted(ready):
        now_s = max(now_s, ready_s) + takes_s
        waited_s += now_s
    return waited_s / len(granted)


@pytest.mark.parametrize("times_faster", [1.25, 1.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("num_requests", [2, 4, 8, 16, 32])
def test_a_burst_waits_no_longer_than_if_all_were_loaded_or_all_computed(
    times_faster, num_requests
):
    bench = Bench(read_s=0.1 / times_faster, compute_s=0.1)
    bench.load(path(64))
    granted = [bench.gate.grant(path(64, branch=bytes([i])), 64) for i in range(num_requests)]
    times = {"load_s": 6.4 / times_faster, "compute_s": 6.4}
    waited_s = mean_wait_s(granted, **times)
    assert waited_s <= 1.001 * mean_wait_s([64] * num_requests, **times)
    assert waited_s <= 1.001 * mean_wait_s([0] * num_requests, **times)


def test_a_load_that_was_called_off_is_not_waited_for():
    bench = Bench(read_s=0.009, compute_s=0.01)
    bench.load(path(300))
    assert bench.gate.grant(path(300, branch=b"\0"), 300) == 300
    assert bench.gate.grant(path(300, branch=b"\1"), 300) == 0
    bench.now_s += 2 * FORGET_LOAD_S
    assert bench.gate.grant(path(300, branch=b"\1"), 300) == 300


def test_a_hit_that_is_granted_again_is_queued_once():
    """SGLang drops a grant for which the host tier has no room, and asks again up to eight times:
    each time the load was put behind its own earlier ones, and soon declined on a fast disk."""
    bench = Bench(read_s=0.004, compute_s=0.01)
    bench.load(path(300))
    for _ in range(9):
        assert bench.gate.grant(path(300, branch=b"\0"), 300) == 300
        assert bench.gate.grant(path(300, branch=b"\0", start=50), 250) == 250
    assert bench.gate.grant(path(300, branch=b"\1"), 300) == 300
    assert bench.gate.figures().pages_found == 900
    assert bench.read(path(300, branch=b"\0", start=50)) == 250
    # Once it was read, the same path is that of another request.
    assert bench.gate.grant(path(300, branch=b"\0"), 300) == 300
    assert bench.gate.figures().pages_found == 1200


@pytest.mark.parametrize(("read_s", "granted"), [(0.015, 300), (0.025, 0)])
def test_a_declined_hit_that_is_asked_for_again_is_no_queue_ahead_of_itself(read_s, granted):
    """SGLang asks up to nine times for a request that waits. Its own computing was taken for a
    queue before it, so that a load twice as slow as computing was granted; and each time it was
    counted, and computed once more."""
    bench = Bench(read_s=read_s, compute_s=0.01)
    bench.load(path(300))
    bench.now_s += 5.0
    before = bench.gate.figures()
    for _ in range(9):
        assert bench.gate.grant(path(300, branch=b"\0"), 300) == 0
        # Pages that reached memory meanwhile are not asked for.
        assert bench.gate.grant(path(300, branch=b"\0", start=50), 250) == 0
    figures = bench.gate.figures()
    assert figures.pages_found - before.pages_found == 300
    assert figures.pages_declined - before.pages_declined == 300
    # Computing it is what another one waits for: 3 s, as long as its own computing takes.
    assert bench.gate.grant(path(300, branch=b"\1"), 300) == granted


def test_a_declined_hit_is_a_request_of_its_own_once_it_was_computed():
    bench = Bench(read_s=0.015, compute_s=0.01)
    bench.load(path(300))
    for number in (1, 2):
        bench.now_s += 4.0
        assert bench.gate.grant(path(300, branch=b"\0"), 300) == 0
        assert bench.gate.figures().pages_found == 300 + 300 * number


def test_nobody_waits_for_the_computing_of_a_hit_that_is_loaded_in_the_end():
    bench = Bench(read_s=0.015, compute_s=0.01)
    bench.load(path(300))
    bench.now_s += 5.0
    assert bench.gate.grant(path(300, branch=b"\0"), 300) == 0
    bench.read_s = 0.009
    bench.read(path(300, branch=b"\2"))
    before = bench.gate.figures()
    assert bench.gate.grant(path(300, branch=b"\0"), 300) == 300
    assert bench.gate.figures().pages_found == before.pages_found + 300
    assert bench.gate.figures().pages_declined == before.pages_declined
    # Behind the load it is 5.4 s to load, and 3 s to compute, which the load waits 0.3 s for.
    assert bench.gate.grant(path(300, branch=b"\1"), 300) == 0


def test_many_requests_that_wait_do_not_fill_memory():
    bench = Bench(read_s=1.0, compute_s=0.01)
    bench.load(path(300))
    for number in range(3 * MAX_WAITING):
        bench.gate.grant(path(8, branch=number.to_bytes(2, "big")), 8)
    assert len(bench.gate._answers) == MAX_WAITING


@pytest.mark.parametrize("read_s", [0.02, 0.4])
def test_a_load_behind_a_long_read_is_waited_for_however_long_that_takes(read_s):
    """It was taken for called off 5 s after its grant, so that others were put in its place. With
    0.4 s a page, one part of the read takes as long."""
    bench = Bench(read_s=read_s, compute_s=2.5 * read_s)
    bench.load(path(50))
    granted = [bench.gate.grant(path(300, branch=bytes([i])), 300) for i in range(2)]
    assert granted == [300, 300]
    started_s = bench.now_s
    assert bench.read(path(300, branch=b"\0")) == 300
    assert bench.now_s > started_s + FORGET_LOAD_S
    assert bench.gate.grant(path(100, branch=b"\2"), 100) == 0


def test_the_wait_that_is_granted_cuts_a_load_in_the_middle():
    bench = Bench(read_s=0.01, compute_s=1.0, limit_s=2.0)
    bench.load(path(50))
    assert bench.gate.grant(path(300), 300) == pytest.approx(200, abs=1)


def test_batches_of_one_load_share_its_time():
    """SGLang reads 128 pages a call; the wait is that of the whole load."""
    bench = Bench(read_s=0.01, compute_s=1.0, limit_s=2.0)
    assert bench.gate.grant(path(300), 300) == 300
    assert bench.read(path(128)) == 128
    assert bench.read(path(256, start=128)) == pytest.approx(200 - 128, abs=8)
