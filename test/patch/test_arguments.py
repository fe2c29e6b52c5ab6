"""What SGLang hands in is a path and memory, or refused."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import ConfigError
from sglang_lsm.pages import NamespaceId

from sglang_lsm_patch.arguments import flat_page, one_per_key, page_hashes, page_path

NAMESPACE = NamespaceId(bytes(8))
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=5)


@given(hashes, hashes)
def test_a_path_is_the_prefix_and_the_keys(before, keys):
    info = SimpleNamespace(prefix_keys=[h.hex() for h in before] or None)
    path = page_path(NAMESPACE, [h.hex() for h in keys], info)
    assert list(path.hashes) == before + keys
    assert (path.start, path.num_pages) == (len(before), len(keys))


@given(st.text())
def test_a_key_is_32_bytes_of_hexadecimal_or_refused(text):
    try:
        (page_hash,) = page_hashes([text])
    except ConfigError:
        return
    assert len(page_hash) == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
def test_a_flat_page_is_the_tensors_memory(dtype):
    tensor = torch.zeros(8, dtype=dtype)
    (memory,) = flat_page(tensor, tensor.nbytes)
    memory[0] = 1
    assert tensor.view(torch.uint8)[0] == 1 and memory.nbytes == tensor.nbytes


@pytest.mark.parametrize(
    "value", [None, torch.zeros(3), torch.zeros(2, 2).t(), b"1234567890123456"]
)
def test_other_memory_is_refused(value):
    with pytest.raises(ConfigError):
        flat_page(value, 16)


@pytest.mark.parametrize("values", [None, torch.zeros(2), [1], "ab"])
def test_one_value_a_key(values):
    with pytest.raises(ConfigError):
        one_per_key(values, ["a", "b"])
    assert one_per_key((1, 2), ["a", "b"]) == [1, 2]
