"""The corrected attention returns the rows of SGLang's own method, also where its slots differ."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from sglang_lsm_cpu_runtime.attention import decode_in_window, extend_new_rows

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


def stock_method(name="_run_sdpa_forward_extend"):
    # Asked for each time: SGLang's hooks also replace the references that other modules hold.
    return inspect.unwrap(getattr(TorchNativeAttnBackend, name))


def backend_of(full_to_window=None):
    """Return a backend without a window's pool, or with one of these slots."""
    backend = TorchNativeAttnBackend.__new__(TorchNativeAttnBackend)
    backend.use_sliding_window_kv_pool = full_to_window is not None
    if full_to_window is not None:
        backend.token_to_kv_pool = SWAKVPool.__new__(SWAKVPool)
        backend.token_to_kv_pool.register_mapping(full_to_window)
    return backend


def in_window_pool(arguments, window, seed):
    """Return the arguments with KV where a window's pool keeps it, and that pool's slots.

    Tokens that no new one sees have no slot there, which SGLang spells 0.
    """
    seen = []
    for row, num_kv, num_new in zip(
        arguments["req_pool_indices"].tolist(),
        arguments["seq_lens"].tolist(),
        arguments["extend_seq_lens"].tolist(),
        strict=True,
    ):
        first = max(0, num_kv - num_new - window)
        seen.append(arguments["req_to_token"][row, first:num_kv])
    slots = torch.cat(seen)
    random = torch.Generator().manual_seed(seed)
    full_to_window = torch.zeros(len(arguments["k_cache"]), dtype=torch.int64)
    full_to_window[slots] = 1 + torch.randperm(len(slots), generator=random)
    moved = dict(arguments)
    for name in ("k_cache", "v_cache"):
        cache = torch.zeros(len(slots) + 1, *arguments[name].shape[1:])
        cache[full_to_window[slots]] = arguments[name][slots]
        moved[name] = cache
    return moved, full_to_window


def both(**arguments):
    """Return the rows of the stock method and of ours; the stock one must not be used by ours."""
    backend = backend_of()
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


@settings(deadline=None, max_examples=40)
@given(requests, st.integers(1, 40), st.integers(0, 2**32))
def test_layers_with_a_window_read_where_they_wrote(lengths, window, seed):
    arguments = batch(lengths, heads=4, kv_heads=2, dtype=torch.float32, seed=seed)
    moved, full_to_window = in_window_pool(arguments, window, seed)
    options = {"causal": True, "scaling": 0.2, "sliding_window_size": window}
    stock = stock_method()
    in_order = stock(backend_of(), **arguments, **options).clone()
    ours = extend_new_rows(stock, backend_of(full_to_window), **moved, **options)
    torch.testing.assert_close(ours, in_order)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=4), st.integers(1, 40), st.integers(0))
def test_decoding_with_a_window_reads_where_it_wrote(prefixes, window, seed):
    lengths = [(prefix, 1) for prefix in prefixes]
    arguments = batch(lengths, heads=4, kv_heads=2, dtype=torch.float32, seed=seed % 2**32)
    moved, full_to_window = in_window_pool(arguments, window, seed % 2**32)
    for each in (arguments, moved):
        del each["extend_prefix_lens"], each["extend_seq_lens"]
    options = {"scaling": 0.2, "sliding_window_size": window}
    stock = stock_method("_run_sdpa_forward_decode")
    in_order = stock(backend_of(), **arguments, **options).clone()
    ours = decode_in_window(stock, backend_of(full_to_window), **moved, **options)
    torch.testing.assert_close(ours, in_order)


@pytest.mark.parametrize(
    "special", [{"sliding_window_size": 8}, {"is_cross_attn": True}, {"encoder_lens": [3]}]
)
def test_special_layers_go_to_the_stock_method(special):
    arguments = batch([(8, 8)], heads=4, kv_heads=2, dtype=torch.float32, seed=1)
    stock = object()
    backend = backend_of()
    assert extend_new_rows(lambda *_: stock, backend, **arguments, **special) is stock


def test_a_server_process_uses_it(plugins):
    for name in ("_run_sdpa_forward_extend", "_run_sdpa_forward_decode"):
        assert getattr(TorchNativeAttnBackend, name) is not stock_method(name)
    hooked = TorchNativeAttnBackend._run_sdpa_forward_extend
    arguments = batch([(8, 8)], heads=4, kv_heads=2, dtype=torch.float32, seed=1)
    del arguments["k_cache"]
    backend = TorchNativeAttnBackend.__new__(TorchNativeAttnBackend)
    with pytest.raises(TypeError, match="extend_new_rows"):
        hooked(backend, **arguments)
