"""What SGLang hands to a storage backend, checked and turned into the engine's types. Pure.

Everything malformed is a ConfigError, so that it ends at the boundary as a miss.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sglang_lsm.errors import ConfigError
from sglang_lsm.pages import HASH_BYTES, NamespaceId, PageBuffer, PageHash, PagePath


def page_path(namespace: NamespaceId, keys: Sequence[str], extra_info: Any) -> PagePath:
    """Return the radix path of `keys`, which follow the `prefix_keys` of SGLang's extra info.

    Raises:
        ConfigError: a key is no page hash.
    """
    before = getattr(extra_info, "prefix_keys", None) or []
    return PagePath(namespace, page_hashes([*before, *keys]), start=len(before))


def page_hashes(keys: Sequence[str]) -> list[PageHash]:
    """Return the bytes of hexadecimal page hashes.

    Raises:
        ConfigError: a key is no page hash.
    """
    try:
        hashes = list(map(bytes.fromhex, keys))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"not a page hash: {error}") from None
    if not {HASH_BYTES}.issuperset(map(len, hashes)):
        raise ConfigError(f"a page hash has {2 * HASH_BYTES} hexadecimal digits")
    return hashes


def one_per_key(values: Any, keys: Sequence[str]) -> list[Any]:
    """Return `values` as a list, one a key. Raises ConfigError when it is not that."""
    if not isinstance(values, (list, tuple)) or len(values) != len(keys):
        raise ConfigError(f"one tensor a key. keys={len(keys)}")
    return list(values)


def flat_page(tensor: Any, page_bytes: int) -> PageBuffer:
    """Return the memory of one page given as a host tensor, not copied.

    Raises:
        ConfigError: not a contiguous tensor of `page_bytes` in host memory.
    """
    if (
        not isinstance(tensor, torch.Tensor)
        or tensor.device.type != "cpu"
        or not tensor.is_contiguous()
        or tensor.nbytes != page_bytes
    ):
        raise ConfigError(f"not a contiguous host tensor of one page. page_bytes={page_bytes}")
    return (memoryview(tensor.view(-1).view(torch.uint8).numpy()),)
