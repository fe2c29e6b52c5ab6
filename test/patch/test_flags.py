"""Parsers note what was written down, and parse as before otherwise."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_lsm_patch.flags import EXPLICIT, FIELDS, WATCHED, add_flags

DEFAULTS = {"hicache_io_backend": "kernel", "hicache_mem_layout": "page_first"}


def make_parser(*, ours):
    parser = argparse.ArgumentParser()
    for name in WATCHED:
        parser.add_argument("--" + name.replace("_", "-"), default=DEFAULTS.get(name, "d"))
    parser.add_argument("--other", type=int, default=1)
    if ours:
        add_flags(parser)
    return parser


given_options = st.dictionaries(
    st.sampled_from([*WATCHED, "other"]), st.sampled_from(["kernel", "page_first", "x", "3"])
)


@given(given_options)
def test_only_what_was_written_down_is_noted(options):
    if "other" in options:
        options["other"] = "3"
    words = [w for name, v in options.items() for w in ("--" + name.replace("_", "-"), v)]
    plain, noted = (make_parser(ours=ours).parse_args(words) for ours in (False, True))
    assert getattr(noted, EXPLICIT) == set(options) & set(WATCHED)
    for name, value in vars(plain).items():
        assert getattr(noted, name) == value


def test_adding_twice_changes_nothing():
    parser = make_parser(ours=True)
    before = parser.format_help()
    add_flags(parser)
    assert parser.format_help() == before
    assert all(getattr(parser.parse_args([]), name) is None for name in FIELDS)


def test_a_value_in_the_namespace_counts_as_given():
    namespace = argparse.Namespace(hicache_io_backend="kernel")
    parsed = make_parser(ours=True).parse_args([], namespace)
    assert getattr(parsed, EXPLICIT) == {"hicache_io_backend"}
    assert parsed.hicache_io_backend == "kernel"


def test_unknown_arguments_are_left_over():
    parsed, rest = make_parser(ours=True).parse_known_args(["--unknown", "--other", "2"])
    assert (parsed.other, rest) == (2, ["--unknown"])


def test_an_unknown_backend_is_named_with_those_that_exist(capsys):
    with pytest.raises(SystemExit):
        make_parser(ours=True).parse_args(["--kv-storage", "rocks"])
    assert "'lsm'" in capsys.readouterr().err
