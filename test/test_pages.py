import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.pages import NAMESPACE_BYTES, Fingerprint, PagePath
from support.page_maker import fingerprint

_NUMBERS = st.integers(0, 1 << 20)
_FIELDS = {
    field.name: st.text() if field.type in (str, "str") else _NUMBERS
    for field in dataclasses.fields(Fingerprint)
}
fingerprints = st.builds(Fingerprint, **_FIELDS)


@given(fingerprints)
def test_canonical_form_holds_every_field(one):
    assert Fingerprint(**json.loads(one.to_json())) == one


@given(fingerprints, fingerprints)
def test_namespaces_are_equal_exactly_where_fingerprints_are(one, other):
    assert (one.namespace == other.namespace) == (one == other)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Fingerprint)])
def test_each_field_alone_changes_the_namespace(name):
    before = fingerprint()
    value = getattr(before, name)
    changed = value + 1 if isinstance(value, int) else value + "x"
    assert dataclasses.replace(before, **{name: changed}).namespace != before.namespace


def test_namespace_is_stable_across_releases():
    assert fingerprint().namespace.hex() == "86a36732ff6c83a4"
    assert len(fingerprint().namespace) == NAMESPACE_BYTES


@given(st.integers(0, 200), st.data())
def test_num_pages_counts_from_start(num_hashes, data):
    start = data.draw(st.integers(0, num_hashes))
    path = PagePath(fingerprint().namespace, [bytes(32)] * num_hashes, start)
    assert path.num_pages == len(path.hashes[start:])
