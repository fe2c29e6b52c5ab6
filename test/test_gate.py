import threading

import pytest
from sglang_lsm.errors import ClosedError
from sglang_lsm.gate import Gate


def test_closes_after_the_last_has_left():
    gate, inside, leave = Gate(), threading.Barrier(3), [threading.Event(), threading.Event()]
    order = []

    def call(number):
        with gate.entered():
            inside.wait()
            leave[number].wait()
            order.append(number)

    calls = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(2)]
    for thread in calls:
        thread.start()
    inside.wait()
    closer = threading.Thread(target=lambda: order.append(gate.close()), daemon=True)
    closer.start()
    while not gate.is_closing:
        pass
    with pytest.raises(ClosedError), gate.entered():
        pytest.fail("entered while closing")
    for number in (1, 0):
        leave[number].set()
        calls[number].join()
    closer.join()
    assert order == [1, 0, True]


def test_only_the_first_closes():
    gate = Gate()
    assert not gate.is_closing
    assert gate.close()
    assert gate.is_closing
    assert not gate.close()
    with pytest.raises(ClosedError), gate.entered():
        pytest.fail("entered a closed gate")


def test_a_call_that_fails_leaves_too():
    gate = Gate()
    with pytest.raises(KeyError), gate.entered():
        raise KeyError
    with gate.entered(), gate.entered():
        pass
    assert gate.close()


def test_is_idle_while_nobody_is_inside():
    gate = Gate()
    assert gate.is_idle
    with gate.entered():
        assert not gate.is_idle
    assert gate.is_idle
