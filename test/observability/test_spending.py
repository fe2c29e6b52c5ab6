"""What is our own work and what is moving bytes, on one thread and on several."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sglang_lsm.observability.spending import FIGURES, Spending


def burn(seconds):
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def test_nothing_was_spent_at_first():
    assert Spending().totals() == {}.fromkeys(FIGURES, 0)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_call_is_our_own_work_and_transfers(kind):
    spending = Spending()
    with spending.call(kind):
        burn(0.02)
        with spending.transfer(kind):
            burn(0.01)
    found = spending.totals()
    assert 0.02 <= found[f"{kind}_own_s"] < 0.029
    assert 0.01 <= found[f"{kind}_transfer_cpu_s"] < 0.019
    assert found[f"{kind}_s"] >= 0.03
    other = "write" if kind == "read" else "read"
    assert found[f"{other}_s"] == found[f"{other}_own_s"] == found[f"{other}_transfer_cpu_s"] == 0.0


def test_waiting_is_no_work():
    spending = Spending()
    with spending.call("read"), spending.transfer("read"):
        time.sleep(0.02)
    found = spending.totals()
    assert found["read_s"] >= 0.02
    assert found["read_own_s"] + found["read_transfer_cpu_s"] < 0.01


def test_what_other_threads_do_for_a_call_is_checks_and_transfers():
    spending = Spending()

    def work():
        with spending.transfer("read"):
            burn(0.005)
        burn(0.01)

    with spending.call("read"), ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(spending.job, work) for _ in range(2)]
        for job in jobs:
            job.result()
    found = spending.totals()
    assert 0.02 <= found["check_cpu_s"] < 0.035
    assert 0.01 <= found["read_transfer_cpu_s"] < 0.02
    assert found["read_own_s"] < 0.01


def test_transfers_of_upkeep_are_nobodys_call():
    spending = Spending()
    with spending.transfer("write"):
        burn(0.002)
    assert spending.totals()["write_transfer_cpu_s"] == 0.0


def test_a_call_that_raises_is_counted():
    spending = Spending()
    with pytest.raises(KeyError), spending.call("write"):
        burn(0.002)
        raise KeyError
    assert spending.totals()["write_own_s"] >= 0.002


def test_what_a_put_asks_is_told_from_what_it_stores():
    spending = Spending()
    with spending.call("write") as call:
        burn(0.01)
        call.asked()
        burn(0.02)
    found = spending.totals()
    assert 0.01 <= found["ask_s"] < 0.019
    assert found["write_own_s"] >= 0.03


def test_threads_that_ended_leave_one_row_and_nothing_of_theirs_is_lost():
    """Each change of the reader threads makes new ones: a row for each would grow for ever."""
    spending = Spending()

    def wait():
        with spending.call("probe"):
            time.sleep(0.001)

    for _ in range(30):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert spending.totals()["probe_s"] >= 0.03
    assert len(spending._running) == 1
