import pytest
from sglang_lsm.controller.senses import IdleCpus, Senses


class Machine:
    def __init__(self, *left_over_s):
        self.now_s, self.left_over_s = 0.0, list(left_over_s)

    def idle_cpus(self):
        return IdleCpus(lambda: list(self.left_over_s), lambda: self.now_s)


def test_it_is_what_grew_since_the_last_call():
    machine = Machine(100.0)
    idle = machine.idle_cpus()
    machine.now_s, machine.left_over_s = 2.0, [103.0]
    assert idle() == pytest.approx(1.5)
    machine.now_s, machine.left_over_s = 3.0, [103.0]
    assert idle() == 0.0


def test_of_several_bounds_the_least_counts():
    machine = Machine(100.0, 7.0)
    idle = machine.idle_cpus()
    machine.now_s, machine.left_over_s = 1.0, [108.0, 7.5]
    assert idle() == pytest.approx(0.5)


def test_where_the_kernel_does_not_tell_no_cpu_is_idle():
    machine = Machine()
    idle = machine.idle_cpus()
    machine.now_s = 1.0
    assert idle() == 0.0
    machine.now_s, machine.left_over_s = 2.0, [5.0]
    assert idle() == 0.0


def test_a_group_that_used_more_than_it_was_given_has_none_left():
    machine = Machine(100.0)
    idle = machine.idle_cpus()
    assert idle() == 0.0
    machine.now_s, machine.left_over_s = 1.0, [99.0]
    assert idle() == 0.0


def test_a_sense_that_is_not_given_speaks_for_nothing():
    senses = Senses(note=lambda entry: None)
    assert senses.recompute_s_per_byte() == senses.idle_cpus() == senses.cache_bytes() == 0.0
