from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.controller.ledger import Ledger


def test_a_loss_stops_it_and_enough_work_without_one_lets_it_go_on():
    ledger = Ledger()
    ledger.enter(spent_s=10.0, would_s=10.0)
    assert ledger.may_stake
    ledger.enter(spent_s=1.2, would_s=1.0)
    assert not ledger.may_stake
    ledger.enter(spent_s=19.0, would_s=19.0)
    assert not ledger.may_stake
    ledger.enter(spent_s=11.0, would_s=11.0)
    assert ledger.may_stake


def test_what_was_earned_may_be_lost():
    ledger = Ledger()
    ledger.enter(spent_s=5.0, would_s=10.0)
    ledger.enter(spent_s=6.0, would_s=1.0)
    assert ledger.may_stake
    ledger.enter(spent_s=1.0, would_s=0.5)
    assert not ledger.may_stake


costs = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.5, 2.0)), min_size=1, max_size=200)


@given(costs)
def test_the_loss_is_never_more_than_the_limit_and_one_window(windows):
    ledger, spent_s, would_s = Ledger(), 0.0, 0.0
    for cost_s, ratio in windows:
        paid_s = cost_s * ratio if ledger.may_stake else cost_s
        ledger.enter(spent_s=paid_s, would_s=cost_s)
        spent_s, would_s = spent_s + paid_s, would_s + cost_s
        assert spent_s <= would_s * 1.01 + 1.0 + 1e-9
