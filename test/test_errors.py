import errno

import pytest
from sglang_lsm import errors


def test_every_error_is_a_store_error():
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(kinds) == 6
    assert all(issubclass(kind, errors.StoreError) for kind in kinds)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.ConfigError, ValueError),
        (errors.UnavailableError, OSError),
        (errors.FormatVersionError, errors.CorruptionError),
    ],
)
def test_errors_are_caught_by_the_kind_a_caller_knows(kind, base):
    assert issubclass(kind, base)


def test_an_unavailable_error_keeps_its_errno():
    error = errors.UnavailableError(errno.ENOSPC, "cannot write")
    assert error.errno == errno.ENOSPC
    assert "cannot write" in str(error)
