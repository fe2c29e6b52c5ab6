"""The corrected extend attention returns the rows of SGLang's own method."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang_lsm_cpu_runtime.attention import extend_new_rows

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU runtime is for CPUs")

HEAD_DIM = 16

requests = st.lists(st.tuples(st.integers(0, 70), st.integers(1, 70)), min_size=1, max_size=4)


def batch(lengths, *, heads, kv_heads, dtype, seed):
    """Return the arguments of an extend of requests with (prefix, new) tokens, slots shuffled."""
    random = torch.Generator().manual_seed(seed)

    def values(*shape):
        return torch.randn(*shape, generator=random).to(dtype)

    prefix, new = torch.tensor(lengths).T
    seq_lens = prefix + new
    num_slots = int(seq_lens.sum())
    slots = torch.randperm(num_slots, generator=random)
    req_to_token = torch.zeros(len(lengths) + 1, int(seq_lens.max()), dtype=torch.int64)
    rows = torch.randperm(len(lengths) + 1, generator=random)[: len(lengths)]
    for row, row_slots in zip(rows, slots.split(seq_lens.tolist()), strict=True):
        req_to_token[row, : len(row_slots)] = row_slots
    num_new = int(new.sum())
    return {
        "query": values(num_new, heads, HEAD_DIM),
        "output": torch.full((num_new, heads, HEAD_DIM), torch.nan, dtype=dtype),
        "k_cache": values(num_slots, kv_heads, HEAD_DIM),
        "v_cache": values(num_slots, kv_heads, HEAD_DIM),
        "req_to_token": req_to_token,
        "req_pool_indices": rows,
        "seq_lens": seq_lens,
        "extend_prefix_lens": prefix,
        "extend_seq_lens": new,
        "enable_gqa": heads != kv_heads,
    }


def stock_method():
    # Asked for each time: SGLang's hooks also replace the references that other modules hold.
    return inspect.unwrap(TorchNativeAttnBackend._run_sdpa_forward_extend)


def both(**arguments):
    """Return the rows of the stock method and of ours; the stock one must not be used by ours."""
    backend = TorchNativeAttnBackend.__new__(TorchNativeAttnBackend)
    stock = stock_method()(backend, **{**arguments, "output": arguments["output"].clone()})

    def refuse(*_args, **_kwargs):
        pytest.fail("fell back to the stock method")

    return stock, extend_new_rows(refuse, backend, **arguments)


@settings(deadline=None, max_examples=60)
@given(
    requests,
    st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_rows_equal_the_stock_rows(lengths, heads, dtype, causal, seed):
    arguments = batch(lengths, heads=heads[0], kv_heads=heads[1], dtype=dtype, seed=seed)
    stock, ours = both(**arguments, causal=causal, scaling=0.2)
    torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize(
    "special", [{"sliding_window_size": 8}, {"is_cross_attn": True}, {"encoder_lens": [3]}]
)
def test_special_layers_go_to_the_stock_method(special):
    arguments = batch([(8, 8)], heads=4, kv_heads=2, dtype=torch.float32, seed=1)
    stock = object()
    backend = TorchNativeAttnBackend.__new__(TorchNativeAttnBackend)
    assert extend_new_rows(lambda *_: stock, backend, **arguments, **special) is stock


def test_a_server_process_uses_it(plugins):
    hooked = TorchNativeAttnBackend._run_sdpa_forward_extend
    assert hooked is not stock_method()
    arguments = batch([(8, 8)], heads=4, kv_heads=2, dtype=torch.float32, seed=1)
    del arguments["k_cache"]
    backend = TorchNativeAttnBackend.__new__(TorchNativeAttnBackend)
    with pytest.raises(TypeError, match="extend_new_rows"):
        hooked(backend, **arguments)
