"""The `torch_native` attention backend, put right in two places.

Upstream pads the query of an extend to the whole sequence and drops the rows of the prefix
afterwards, so that a prefix hit saves no attention work. Here only the new rows are queried,
against a causal mask that starts at the prefix. The rows come out the same.

Upstream writes KV of layers with a sliding window to slots of the window's pool, and reads it from
the slots that full attention has. Both are the same until tokens leave the window or a prefix is
loaded; from then on it answers from other tokens' KV. Here it is read where it was written.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


def register() -> None:
    """Hook SGLang's methods; does nothing beside a CUDA device. Called once a process."""
    if torch.cuda.is_available():
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    backend = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"
    for method, hook in (
        ("_run_sdpa_forward_extend", extend_new_rows),
        ("_run_sdpa_forward_decode", decode_in_window),
    ):
        HookRegistry.register(f"{backend}.{method}", hook, HookType.AROUND)


def extend_new_rows(  # noqa: PLR0913 (upstream's signature)
    stock: Callable[..., torch.Tensor],
    backend: Any,
    query: torch.Tensor,
    output: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    extend_prefix_lens: torch.Tensor,
    extend_seq_lens: torch.Tensor,
    encoder_lens: torch.Tensor | None = None,
    scaling: float | None = None,
    enable_gqa: bool = False,
    causal: bool = False,
    is_cross_attn: bool = False,
    sliding_window_size: int | None = None,
) -> torch.Tensor:
    """Attend from the new tokens of each request to its whole sequence.

    Encoder-decoder and sliding-window layers go to the `stock` method, the latter with the slots of
    the window's pool.

    Args:
        query: `[T, heads, D]`, the new tokens of all requests, one request after the other.
        output: like `query`; written and returned.
        k_cache: `[slots, H, D]`, and so is `v_cache`.
        req_to_token: `[requests, positions]`, the slot of each token.
        req_pool_indices: `[B]`, rows of `req_to_token`; B requests in this batch.
        seq_lens: `[B]`, prefix and new tokens together.

    Upstream: TorchNativeAttnBackend._run_sdpa_forward_extend.
    """
    windowed = _is_windowed(sliding_window_size)
    if windowed:
        req_to_token, req_pool_indices = _slots_read(
            backend, req_to_token, req_pool_indices, seq_lens
        )
    if encoder_lens is not None or is_cross_attn or windowed:
        return stock(
            backend, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens,
            extend_prefix_lens, extend_seq_lens, encoder_lens, scaling, enable_gqa, causal,
            is_cross_attn, sliding_window_size,
        )  # fmt: skip
    start = 0
    for row, num_kv, num_prefix, num_new in zip(
        req_pool_indices.tolist(),
        seq_lens.tolist(),
        extend_prefix_lens.tolist(),
        extend_seq_lens.tolist(),
        strict=True,
    ):
        end = start + num_new
        slots = req_to_token[row, :num_kv]
        rows = scaled_dot_product_attention(
            _heads_first(query[start:end]),
            _heads_first(k_cache[slots].to(query.dtype)),
            _heads_first(v_cache[slots].to(query.dtype)),
            attn_mask=_offset_causal_mask(num_new, num_prefix) if causal and num_prefix else None,
            is_causal=causal and not num_prefix,
            scale=scaling,
            enable_gqa=enable_gqa,
        )
        output[start:end] = rows.squeeze(0).movedim(0, 1)
        start = end
    return output


def decode_in_window(  # noqa: PLR0913 (upstream's signature)
    stock: Callable[..., torch.Tensor],
    backend: Any,
    query: torch.Tensor,
    output: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    *rest: Any,
    sliding_window_size: int | None = None,
    **options: Any,
) -> torch.Tensor:
    """Attend from each request's last token; layers with a window read the window's slots.

    Arguments: as `extend_new_rows`. Upstream: TorchNativeAttnBackend._run_sdpa_forward_decode.
    """
    if _is_windowed(sliding_window_size):
        req_to_token, req_pool_indices = _slots_read(
            backend, req_to_token, req_pool_indices, seq_lens
        )
    return stock(
        backend, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, *rest,
        sliding_window_size=sliding_window_size, **options,
    )  # fmt: skip


def _is_windowed(sliding_window_size: int | None) -> bool:
    return sliding_window_size is not None and sliding_window_size > -1


def _slots_read(
    backend: Any,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `[B, positions]` slots of a layer with a window, and the row of each request.

    What has left the window has any slot; it is masked.
    """
    if not backend.use_sliding_window_kv_pool:
        return req_to_token, req_pool_indices
    slots = req_to_token[req_pool_indices, : int(seq_lens.max())]
    rows = torch.arange(len(req_pool_indices))
    return backend.token_to_kv_pool.translate_loc_from_full_to_swa(slots), rows


def _heads_first(rows: torch.Tensor) -> torch.Tensor:
    """Turn `[T, heads, D]` into `[1, heads, T, D]`."""
    return rows.movedim(0, 1).unsqueeze(0)


def _offset_causal_mask(num_new: int, num_prefix: int) -> torch.Tensor:
    """Return `[num_new, num_prefix + num_new]` bool: new token i sees up to num_prefix + i."""
    return torch.ones(num_new, num_prefix + num_new, dtype=torch.bool).tril(num_prefix)
