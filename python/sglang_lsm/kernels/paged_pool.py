"""What a copy kernel has to know of SGLang's device pool, checked once, when the pool is made.

The pool keeps one buffer per layer for K and one for V (MHA), or one buffer per layer (MLA). A
buffer has a row per token slot; page `p` is the `S` rows from `p * S` on. Rows are raw bytes here,
so that every dtype is copied bit by bit, and they may lie apart (a view into a wider allocation).

A staging tensor holds pages one after the other, each in the order
`[K/V, layer, token, head, dim]`: all layers of K, then all layers of V.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MAX_RUN_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where the rows of one buffer lie; the same for all layers of K, and for all layers of V."""

    row_bytes: int
    row_stride_bytes: int
    """From one row to the next."""

    @property
    def is_dense(self) -> bool:
        """Whether nothing lies between two rows, so that a page is one piece."""
        return self.row_bytes == self.row_stride_bytes

    def extents(self, page_size: int) -> tuple[int, ...]:
        """Return the bytes that a vector must divide to never straddle the end of a piece."""
        if self.is_dense:
            return (page_size * self.row_bytes,)
        return self.row_bytes, self.row_stride_bytes


@dataclass(frozen=True, slots=True, eq=False)
class PagedPool:
    """The K and V buffers of one rank as the copy kernels see them.

    Immutable, and safe to share between threads. It keeps the buffers alive; make a new one when
    the server reallocates its pool.
    """

    buffers: tuple[torch.Tensor, ...]
    """`[num_slots, row_bytes]` uint8 views of K of layers 0 to L-1, then V of layers 0 to L-1."""
    addresses: torch.Tensor
    """`[len(buffers)]` int64 on the pool's device: where each buffer starts."""
    k: RowLayout
    v: RowLayout | None
    """None for MLA: one buffer per layer."""
    num_layers: int
    page_size: int
    num_pages: int
    alignment: int
    """The largest power of two, up to 16, that divides every address and extent of a run."""

    @classmethod
    def of(
        cls, k: Sequence[torch.Tensor], v: Sequence[torch.Tensor] = (), *, page_size: int
    ) -> "PagedPool":
        """Describe a device pool.

        Args:
            k: L tensors `[num_slots, ...]`, of any dtype. The dimensions after the first are dense;
                rows may be strided. MLA passes its only buffers here.
            v: L tensors in the same form, perhaps of another width, or none.
            page_size: tokens of a page; slots beyond the last whole page are never touched.

        Raises:
            ValueError: the buffers do not agree in shape, stride or device, or rows overlap.

        Upstream: `MHATokenToKVPool.k_buffer`, `.v_buffer`; `MLATokenToKVPool.kv_buffer`.
        """
        if page_size < 1:
            raise ValueError(f"page_size must be at least 1. page_size={page_size}")
        if not k or (v and len(v) != len(k)):
            raise ValueError(f"each layer needs K, or K and V. k={len(k)} v={len(v)}")
        k_rows, k_layout = _as_rows("k", k)
        v_rows, v_layout = _as_rows("v", v) if v else ([], None)
        buffers = (*k_rows, *v_rows)
        first = buffers[0]
        for buffer in buffers:
            if buffer.device != first.device or len(buffer) != len(first):
                raise ValueError(
                    "all buffers must have the same device and number of slots."
                    f" first={first.device},{len(first)} other={buffer.device},{len(buffer)}"
                )
        extents: list[int] = []
        for layout in filter(None, (k_layout, v_layout)):
            if page_size * layout.row_stride_bytes > _MAX_RUN_BYTES:
                raise ValueError(f"one layer of a page must span at most 1 GiB. {layout}")
            extents += layout.extents(page_size)
        addresses = [buffer.data_ptr() for buffer in buffers]
        return cls(
            buffers=buffers,
            addresses=torch.tensor(addresses, dtype=torch.int64, device=first.device),
            k=k_layout,
            v=v_layout,
            num_layers=len(k),
            page_size=page_size,
            num_pages=len(first) // page_size,
            alignment=math.gcd(16, *addresses, *extents),
        )

    @property
    def device(self) -> torch.device:
        """Where the pool lies; page ids and staging must lie there too."""
        return self.addresses.device

    @property
    def page_bytes(self) -> int:
        """Bytes of one page in staging, all layers of K and V."""
        row_bytes = self.k.row_bytes + (self.v.row_bytes if self.v else 0)
        return self.num_layers * self.page_size * row_bytes

    def check(
        self, page_ids: torch.Tensor, staging: torch.Tensor, *, distinct: bool = False
    ) -> None:
        """Raise ValueError unless `page_ids` (`distinct` if so asked) and `staging` fit this pool.

        Page ids are looked at on the CPU only: on a device that would stall the stream.
        """
        if page_ids.dtype not in (torch.int32, torch.int64) or page_ids.dim() != 1:
            raise ValueError(
                "page_ids must be [P] int32 or int64."
                f" shape={tuple(page_ids.shape)} dtype={page_ids.dtype}"
            )
        if not page_ids.is_contiguous():
            raise ValueError(f"page_ids must be contiguous. stride={page_ids.stride()}")
        expected = (len(page_ids), self.page_bytes)
        if staging.dtype != torch.uint8 or tuple(staging.shape) != expected:
            raise ValueError(
                f"staging must be {list(expected)} uint8."
                f" shape={tuple(staging.shape)} dtype={staging.dtype}"
            )
        # A batch of one has no meaningful page stride, and torch leaves anything there.
        if staging.stride(1) != 1 or (len(staging) > 1 and staging.stride(0) < self.page_bytes):
            raise ValueError(
                "each page of staging must be dense, and pages must not overlap."
                f" stride={staging.stride()} page_bytes={self.page_bytes}"
            )
        if page_ids.device != self.device or staging.device != self.device:
            raise ValueError(
                "page_ids and staging must lie on the pool's device."
                f" pool={self.device} page_ids={page_ids.device} staging={staging.device}"
            )
        if page_ids.device.type == "cpu" and len(page_ids):
            low, high = int(page_ids.min()), int(page_ids.max())
            if low < 0 or high >= self.num_pages:
                raise ValueError(
                    f"page id outside the pool. min={low} max={high} num_pages={self.num_pages}"
                )
            if distinct and len(set(page_ids.tolist())) != len(page_ids):
                raise ValueError("page ids to write must be distinct")


def _as_rows(name: str, buffers: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], RowLayout]:
    """Return each buffer as `[num_slots, row_bytes]` uint8, not copied, and their common layout."""
    rows, layouts = [], set()
    for buffer in buffers:
        if buffer.dim() < 2 or buffer.shape[1:].numel() == 0:
            raise ValueError(f"{name} must be [num_slots, row...]. shape={tuple(buffer.shape)}")
        # The first row alone shows whether rows are dense, whatever the stride between them.
        if not buffer[:1].is_contiguous():
            raise ValueError(f"each row must be dense. buffer={name} stride={buffer.stride()}")
        flat = buffer.flatten(1).view(torch.uint8)
        layout = RowLayout(row_bytes=flat.shape[1], row_stride_bytes=flat.stride(0))
        if layout.row_stride_bytes < layout.row_bytes:
            raise ValueError(f"rows must not overlap. buffer={name} {layout}")
        rows.append(flat)
        layouts.add(layout)
    if len(layouts) != 1:
        raise ValueError(f"all layers of {name} must have the same row width and stride. {layouts}")
    return rows, layouts.pop()
