"""Everything this package raises on purpose, sorted by what the caller should do.

A miss is not an error. A page that cannot be read is a miss; a page that is wrong is a bug.
"""


class StoreError(Exception):
    """Base of all errors raised on purpose; at the SGLang boundary it becomes a miss."""


class ConfigError(StoreError, ValueError):
    """A setting is wrong; fix it. Nothing was opened or changed."""


class UnavailableError(StoreError, OSError):
    """The disk is full, failing or too slow; retry later, or treat it as a miss."""


class CorruptionError(StoreError):
    """Stored bytes contradict themselves; never retry."""


class FormatVersionError(CorruptionError):
    """The store was written by a newer format; use another build or an empty directory."""


class ClosedError(StoreError):
    """The store was closed; open a new one."""


def surprise(error: BaseException) -> BaseException | None:
    """Return an error that was not raised on purpose, for `exc_info` of a log line; else None.

    It is a mistake of ours, or of what we call: where it comes from helps.
    """
    return None if isinstance(error, StoreError) else error
