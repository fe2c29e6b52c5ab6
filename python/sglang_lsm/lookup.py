"""Which index values still hold: of the right page, and in a segment that is there."""

from collections.abc import Sequence
from typing import Protocol

from sglang_lsm import format, keycodec
from sglang_lsm.pages import PageBuffer, PagePath


class Segments(Protocol):
    """The part of a log that is needed here."""

    def has(self, segment_id: int) -> bool:
        """Return whether a segment exists."""


def num_current(segments: Segments, path: PagePath, values: Sequence[bytes]) -> int:
    """Return how many leading index values belong to the pages of a call and can be read."""
    hashes = path.hashes[path.start : path.start + len(values)]
    # All at once first: this is most of what a probe costs beside the index.
    ids, tails = format.index_value_owners(values)
    if tails == keycodec.hash_tails(hashes) and all(map(segments.has, ids)):
        return len(values)
    for i, (value, page_hash) in enumerate(zip(values, hashes, strict=True)):
        segment_id, tail = format.index_value_owner(value)
        if tail != keycodec.hash_tail(page_hash) or not segments.has(segment_id):
            return i
    return len(values)


def num_present(segments: Segments, values: Sequence[bytes]) -> int:
    """Return how many leading index values, of the pages that were asked for, can be read."""
    if all(map(segments.has, format.value_segments(values))):
        return len(values)
    owners = map(format.index_value_owner, values)
    return next((i for i, (owner, _) in enumerate(owners) if not segments.has(owner)), len(values))


def missing_pages(segments: Segments, path: PagePath, values: Sequence[bytes | None]) -> list[int]:
    """Return the indices of the pages of a call that have to be written.

    Args:
        values: what the index has under the key of each page.
    """
    missing = []
    for i, value in enumerate(values):
        if value is not None:
            segment_id, tail = format.index_value_owner(value)
            is_ours = tail == keycodec.hash_tail(path.hashes[path.start + i])
            if is_ours and segments.has(segment_id):
                continue
        missing.append(i)
    return missing


def check_counts(path: PagePath, buffers: Sequence[PageBuffer]) -> None:
    """Raise ValueError unless there is one buffer for each page of the call."""
    if len(buffers) != path.num_pages:
        raise ValueError(f"one buffer a page. pages={path.num_pages} buffers={len(buffers)}")


def stored_pages(
    segments: Segments, path: PagePath, values: Sequence[bytes | None], num_unexpired: int
) -> list[bool]:
    """Return of each page of `path` whether it can be read, whatever lies before it.

    Args:
        num_unexpired: how many leading pages have not outlived their time.
    """
    missing = {*missing_pages(segments, path, values)}
    return [i < num_unexpired and i not in missing for i in range(path.num_pages)]
